"""Templates that are part of a sentence: what they show. All others are furniture and vanish."""

import functools
import re
from collections.abc import Callable, Sequence

Show = Callable[[Sequence[str]], str]

LINE_BREAK = "\v"
"""A line ends here for the reader too, as it does not at each line feed of a paragraph's source."""

_NAMED = re.compile(r"\s*[\w -]{1,30}=")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH_NUMBERS = {f"{number:{width}}" for number in range(1, 13) for width in ("", "02")}
_UNIT_PARTS = {"in", "inch", "inches", "oz", "lb", "lbs", "yd", "fur", "chain"}
_BETWEEN = {"-": "–", "–": "–", "+/-": " ± ", "±": " ± "} | {
    word: f" {word} " for word in ("to", "and", "by", "x", "×", "or", "to about", "and(-)", "to(-)")
}
_PITCHES = {
    "flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮", "doubleflat": "𝄫", "bb": "𝄫", "doublesharp": "𝄪",
    "##": "𝄪", "x": "𝄪",
}  # fmt: skip
_ROMAN = re.compile(r"[IVXLC]+")
_ORDINALS = ("e", "er", "re", "ème")
# Names that say what they show.
_ORDINAL = re.compile(r"-?[IVXLC]+er? siècle|[IVX][IVXLC]*er?|\d{1,3}(?:er?|re|ème|nde?)")
_CODE = re.compile(r"[a-z]{2,3}")
_BARE_LINK = re.compile(r"\[\S+\]")
_ACCENTS = {"us": "US: ", "uk": "UK: ", "pron": "pronounced ", "lang": "English: "}
_POWERS = {"2": "²", "3": "³"}
_LANGUAGE = re.compile(r"(?:lang|langue|język|nyelv|mova|vol|k|link)-[\w-]+\Z")
_SOUNDS = re.compile(r"(?:ipa|мфа)-[\w-]+\Z")


def show_template(content: str, title: str) -> str:
    """What stands in the text for `{{content}}`, most often nothing.

    Args:
        content: name and arguments, what is inside them shown already.
        title: of the page.
    """
    name, pipe, rest = content.partition("|")
    shown = _find_shown(name)
    if shown is None:
        return ""
    if isinstance(shown, str):
        return title if shown == _TITLE else shown
    return shown(rest.split("|") if pipe else ())


@functools.lru_cache(maxsize=4096)
def _find_shown(name: str) -> str | Show | None:
    """What stands for a template whatever its arguments are, what shows them, or None where nothing is shown."""
    name = name.strip()
    if _ORDINAL.fullmatch(name):
        return f"{name[1:]} av. J.-C." if name[0] == "-" else name
    key = name.lower().replace("_", " ")
    if key in _CONSTANTS:
        return _CONSTANTS[key]
    if key in _TITLES:
        return _TITLE
    if key in _SHOWN:
        return _SHOWN[key]
    if _LANGUAGE.match(key):
        return _first
    if _SOUNDS.match(key):
        return _wrapped("[", "]")
    function, _, argument = name.partition(":")
    return argument.strip() if function.lower() in _FUNCTIONS else None


def _positional(arguments: Sequence[str]) -> list[str]:
    """Arguments without a name; `1=` counts as none."""
    found = []
    for argument in arguments:
        if argument[:2] in ("1=", "2=", "3="):
            found.append(argument[2:].strip())
        elif not _NAMED.match(argument):
            found.append(argument.strip())
    return found


def _named(arguments: Sequence[str], *names: str) -> str:
    """The argument of the first of these names that is given, empty where none is."""
    given = {name.strip(): value.strip() for name, equals, value in (a.partition("=") for a in arguments) if equals}
    return next((given[name] for name in names if given.get(name)), "")


def _nth(number: int) -> Show:
    def show(arguments: Sequence[str]) -> str:
        found = _positional(arguments)
        return found[number] if number < len(found) else _named(arguments, "text", "texte")

    return show


def _labelled(*names: str, otherwise: str = "") -> Show:
    """An argument of one of these names, else the first without a name, else the one that is called `otherwise`."""
    return lambda arguments: _named(arguments, *names) or _first(arguments) or _named(arguments, otherwise)


def _joined(separator: str) -> Show:
    return lambda arguments: separator.join(filter(None, _positional(arguments)))


def _wrapped(before: str, after: str = "") -> Show:
    def show(arguments: Sequence[str]) -> str:
        text = _first(arguments)
        return f"{before}{text}{after}" if text else ""

    return show


def _last(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    return found[-1] if found else ""


def _formula(arguments: Sequence[str]) -> str:
    # An equals sign in a formula is no name.
    text = "|".join(arguments)
    return text.removeprefix("1=").strip()


def _block(arguments: Sequence[str]) -> str:
    text = _named(arguments, "text", "texte") or _first(arguments)
    return f"\n\n{text}\n\n" if text else ""


def _verse(arguments: Sequence[str]) -> str:
    return _block([argument.strip().replace("\n", LINE_BREAK) for argument in arguments])


def _columns(arguments: Sequence[str]) -> str:
    """Lines in columns, among what says how many there are and how wide."""
    columns = [_named(arguments, f"col{number}") for number in range(1, 7)]
    text = "\n".join(filter(None, columns)) or max(_positional(arguments), key=len, default="")
    return f"\n{text}\n"


def _row(arguments: Sequence[str]) -> str:
    return " · ".join(item for item in _positional(arguments) if item and not _BARE_LINK.fullmatch(item))


def _items(mark: str) -> Show:
    return lambda arguments: "\n" + "".join(f"{mark} {item}\n" for item in _positional(arguments) if item)


def _convert(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    if len(found) > 3 and found[1] in _BETWEEN:
        between = _BETWEEN[found[1]].replace("(-)", "")
        return f"{found[0]}{between}{found[2]} {found[3]}"
    if len(found) > 3 and found[3] in _UNIT_PARTS:
        return " ".join(found[:4])
    power = _POWERS.get(found[2], "") if len(found) > 2 else ""
    return " ".join(found[:2]) + power


def _fraction(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    match found:
        case [denominator]:
            return f"1/{denominator}"
        case [numerator, denominator]:
            return f"{numerator}/{denominator}"
        case [whole, numerator, denominator, *_]:
            return f"{whole} {numerator}/{denominator}"
    return ""


def _value(arguments: Sequence[str]) -> str:
    number, *rest = *_positional(arguments), ""
    if rest[0]:
        number += rest[0] if rest[0].startswith("(") else f"±{rest[0]}"
    power = _named(arguments, "e")
    unit = _named(arguments, "u", "ul")
    return f"{number}×10^{power} {unit}".strip() if power else f"{number} {unit}".strip()


def _ship(arguments: Sequence[str]) -> str:
    return " ".join(filter(None, _positional(arguments)[:2]))


def _as_of(arguments: Sequence[str]) -> str:
    if shown := _named(arguments, "alt"):
        return shown
    words = "as of" if any(a.replace(" ", "").lower() in ("lc=y", "lc=on", "lc=yes") for a in arguments) else "As of"
    found = _positional(arguments)
    day = found[2:3]
    month = [_MONTHS[int(found[1]) - 1] if found[1] in _MONTH_NUMBERS else found[1]] if found[1:] else []
    return " ".join([words, *day, *month, *found[:1]])


def _pronunciation(arguments: Sequence[str]) -> str:
    match _positional(arguments):
        case [sounds]:
            return sounds
        case [_, sounds, *_] if sounds:  # after a language the template makes the brackets
            return f"[{sounds}]"
    return ""


def _english_pronunciation(arguments: Sequence[str]) -> str:
    """Sound by sound, as `IPAc-en` takes them: `UK|ˈ|a|_|b|,_|US|c` is UK: /ˈa b/, US: /c/."""
    variants: list[tuple[str, list[str]]] = [("", [])]
    for argument in _positional(arguments):
        accent, sounds = variants[-1]
        if argument == ",_":
            variants.append(("", []))
        elif not sounds and argument.lower() in _ACCENTS:
            variants[-1] = (accent + _ACCENTS[argument.lower()], sounds)
        else:
            sounds.append(argument.replace("_", " "))
    return ", ".join(f"{accent}/{''.join(sounds)}/" for accent, sounds in variants if sounds)


def _respelling(arguments: Sequence[str]) -> str:
    return "-".join(_positional(arguments)).replace("-,_-", ", ").replace("-_-", " ")


def _century(after: str = "") -> Show:
    """French centuries: `XIX|e`, `XIX`, `V|e|et|VI|e`."""

    def show(arguments: Sequence[str]) -> str:
        words: list[str] = []
        for word in filter(None, _positional(arguments)):
            if word in _ORDINALS and words:
                words[-1] = words[-1].removesuffix("e").removesuffix("er") + word
            elif _ROMAN.fullmatch(word):
                words.append(word + ("er" if word == "I" else "e"))
            elif words:
                words.append(word)
        number = sum(word[0] in "IVXLC" for word in words)
        return " ".join([*words, "siècles" if number > 1 else "siècle"]) + after if words else ""

    return show


def _clock(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    units = ("h", "") if len(found) == 2 else ("h", "min", "s")
    return " ".join(f"{number} {unit}" for number, unit in zip(found, units, strict=False)).strip()


def _date(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    return " ".join(found) if found and found[0] else ""


def _circa(arguments: Sequence[str]) -> str:
    return " – ".join(f"c. {date}" for date in _positional(arguments) if date) or "c."


def _aside(arguments: Sequence[str]) -> str:
    text = _first(arguments)
    return f"– {text}" + " –" * ("stop" not in _positional(arguments)) if text else ""


def _nihongo(arguments: Sequence[str]) -> str:
    """An English word, and in brackets how it is written and read."""
    word, *others = *filter(None, _positional(arguments)[:3]), ""
    return f"{word} ({', '.join(others[:-1])})" if others[:-1] else word


def _interlanguage(arguments: Sequence[str]) -> str:
    """A link that names the languages which have the page; in its old form the language came first."""
    found = _positional(arguments)
    if len(found) > 1 and _CODE.fullmatch(found[0]):
        return found[1]
    return _named(arguments, "lt") or _first(arguments)


def _translated(arguments: Sequence[str]) -> str:
    """A page that is to be translated, and what the text calls it."""
    found = _positional(arguments)
    return (found[1] if len(found) > 1 and found[1] else "") or _first(arguments)


def _gauge(arguments: Sequence[str]) -> str:
    text = _first(arguments)
    return text if text[:1].isdigit() else ""


_first = _nth(0)

_CONSTANTS = {
    **dict.fromkeys(("ndash", "en dash", "–"), "–"),
    **dict.fromkeys(("snd", "snds", "spnd", "spaced ndash", "spaced en dash", "dash", "sndash"), " – "),
    **dict.fromkeys(("mdash", "mdashb", "emdash", "em dash", "—"), "—"),
    **dict.fromkeys(("nbsp", "space", "thinsp", "hair space", "spaces", "·", "dot", "•"), " "),
    **dict.fromkeys(("okina", "hamza", "ayin"), "ʻ"),
    **dict.fromkeys(("br", "clear", "-", "paragraph", "pb"), LINE_BREAK),
    # Beside a mark of italics a plain apostrophe would be taken for part of it.
    **dict.fromkeys(("'", "apos", "-'"), "&#39;"),
    "'s": "&#39;s",
    "' \"": '&#39; "',
    "eqm": "⇌",
    "carbon": "C",
    "hydrogen": "H",
    "esd": " ",
    "!": "|",
    "=": "=",
    "(": "{",
    ")": "}",
    "pi": "π",
    "infin": "∞",
    "minus": "−",
    "times": "×",
    "pound sign": "£",
    "ad": "AD",
    "ce": "CE",
    "bce": "BCE",
    "bc": "BC",
    "av. j.-c.": "av. J.-C.",
    "apr. j.-c.": "apr. J.-C.",
    "1er": "1er",
    "ier": "Ier",
}

# What `{{enS|word}}` says of a word.
_GERMAN = {
    "ens": "englisch", "frs": "französisch", "las": "lateinisch", "its": "italienisch", "ess": "spanisch",
    "rus": "russisch", "pls": "polnisch", "css": "tschechisch", "grs": "griechisch", "nls": "niederländisch",
}  # fmt: skip

_TITLE = "\0title"  # stands for the page's title, and in no text
_TITLES = {"pagename", "fullpagename", "basepagename", "subpagename"}
_FUNCTIONS = {"lc", "uc", "lcfirst", "ucfirst", "formatnum"}

_FIRST = """
    nowrap nobreak nobold noitalic small smaller big larger em strong var abbr abbrv tooltip unicode iast polytonic
    smallcaps sc aut u underline strikethrough del code mono kbd tt samp langx noredirect
    citation wikt-lang blue red green center align vanchor fontsize normal zh gr grc he hebrew sanskrit
    nastaliq
    vr keypress fmtn ta date- latin border chiarire ألمانية 仮リンク
    angbr vet kurziv fett sic typo нобр nota числ число num romain rom літ fakt refnec tsl
"""
_FIRST_OF_SEVERAL_WORDS = (
    "senza fonte", "citazione necessaria", "référence nécessaire", "référence souhaitée", "citation needed span",
    "citation bloc", "citation étrangère",
    "visible anchor", "plain text", "angle bracket", "as written", "petites capitales", "petite capitale",
)  # fmt: skip
_QUOTES = """
    quote cquote quotation blockquote bquote quotebox zitat цитата citat cita cytat citazione citaat
"""

_SHOWN: dict[str, Show] = {
    **dict.fromkeys((*_FIRST.split(), *_FIRST_OF_SEVERAL_WORDS), _first),
    **dict.fromkeys(
        ("lang", "langue", "color", "colour", "font color", "fontcolor", "język", "lingua", "rtl-lang", "script"),
        _nth(1),
    ),
    "langx": _nth(1),
    **dict.fromkeys(("transl", "transliteration", "translit", "background color"), _last),
    **dict.fromkeys(("math", "mvar", "bigmath", "tmath"), _formula),
    **dict.fromkeys(("chem", "chem2", "ce", "linktext"), _joined("")),
    **dict.fromkeys(("nombre", "nb", "nobr", "date de naissance", "date de décès"), _joined(" ")),
    **dict.fromkeys(("flag", "flagcountry", "flagu"), _labelled("name")),
    **dict.fromkeys(("ill", "illm", "interlanguage link", "link-interwiki"), _interlanguage),
    **dict.fromkeys(("iw", "нп3", "нп5", "не переведено", "не переведено 5"), _translated),
    "lien": _labelled("texte", otherwise="fr"),
    "nihongo": _nihongo,
    **dict.fromkeys(("frac", "sfrac", "fraction", "bruch"), _fraction),
    **dict.fromkeys(("convert", "cvt", "unité", "unit", "unidad", "converter", "convertir"), _convert),
    **dict.fromkeys(("val", "num1"), _value),
    **dict.fromkeys(("sup", "superscript", "exp"), _wrapped("^")),
    **dict.fromkeys(("sub", "subscript", "ind"), _wrapped("_")),
    **dict.fromkeys((*_QUOTES.split(), "quote box", "centered quote"), _block),
    **dict.fromkeys(("poem", "poemquote"), _verse),
    **dict.fromkeys(("columns-list", "columns list", "columns", "colonnes", "plainlist", "flatlist"), _columns),
    **dict.fromkeys(("unordered list", "bulleted list", "ubl", "unbulleted list"), _items("*")),
    "ordered list": _items("#"),
    "hlist": _row,
    **dict.fromkeys(("séc", "século"), _wrapped("século ")),
    "ipa": _pronunciation,
    "ipac-en": _english_pronunciation,
    "respell": _respelling,
    "segle": _wrapped("segle "),
    "incise": _aside,
    "music": lambda arguments: _PITCHES.get(_first(arguments).lower(), ""),
    **dict.fromkeys(("railgauge", "track gauge"), _gauge),
    "heure": _clock,
    '"': _wrapped("„", "“"),
    "höhe": _wrapped("", " m"),
    "tmp": _joined(" "),
    "us patent": _wrapped("U.S. Patent "),
    "oldstyledate": lambda arguments: ", ".join(_positional(arguments)[:2]),
    **dict.fromkeys(("circa", "c.", "ca."), _circa),
    **dict.fromkeys(("us$", "usd"), _wrapped("US$")),
    **dict.fromkeys(("a$", "aud"), _wrapped("A$")),
    **dict.fromkeys(("gbp", "£"), _wrapped("£")),
    **dict.fromkeys(("eur", "€"), _wrapped("€")),
    "euro": lambda arguments: f"€{_first(arguments)}",
    **dict.fromkeys(("ship", "sclass", "sclass2"), _ship),
    "sortname": _joined(" "),
    **dict.fromkeys(("date", "dato", "fecha", "datum"), _date),
    **dict.fromkeys(("s", "s-", "sp", "sp-", "siècle"), _century()),
    **dict.fromkeys(("-s", "-s-"), _century(" av. J.-C.")),
    **{name: _wrapped(word + " ") for name, word in _GERMAN.items()},
    **{prefix: _wrapped(prefix.upper() + " ") for prefix in ("hms", "uss", "ss", "rms", "hmas", "hmcs", "uscgc", "mv")},
    "as of": _as_of,
    "e": _wrapped("×10^"),
    "10^": _wrapped("10^"),
    "sqrt": _wrapped("√"),
    "abs": _wrapped("|", "|"),
}
