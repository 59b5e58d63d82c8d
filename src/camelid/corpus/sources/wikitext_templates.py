"""Templates that are part of a sentence: what they show. All others are furniture and vanish."""

import functools
import re
from collections.abc import Callable, Sequence

Show = Callable[[Sequence[str]], str]

_NAMED = re.compile(r"\s*[\w -]{1,30}=")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH_NUMBERS = {f"{number:{width}}" for number in range(1, 13) for width in ("", "02")}
_ACCENTS = {"us": "US: ", "uk": "UK: ", "pron": "pronounced ", "lang": "English: "}
_POWERS = {"2": "²", "3": "³"}
_LANGUAGE = re.compile(r"(?:lang|langue|język|nyelv|mova|vol|k)-[\w-]+\Z")
_SOUNDS = re.compile(r"ipa-[\w-]+\Z")


def show_template(content: str, title: str) -> str:
    """What stands in the text for `{{content}}`, most often nothing.

    Args:
        content: name and arguments, what is inside them shown already.
        title: of the page.
    """
    raw_name, pipe, rest = content.partition("|")
    name, show = _find_show(raw_name)
    if show is not None:
        return show(rest.split("|") if pipe else ())
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if name in _TITLES:
        return title
    if name.partition(":")[0] in _FUNCTIONS:
        return content.partition(":")[2].partition("|")[0].strip()
    return ""


@functools.lru_cache(maxsize=4096)
def _find_show(name: str) -> tuple[str, Show | None]:
    """The name as the tables have it, and what shows the arguments, if anything does."""
    name = name.strip().lower().replace("_", " ")
    if name in _CONSTANTS or name in _TITLES:
        return name, None
    show = _SHOWN.get(name)
    if show is None and _LANGUAGE.match(name):
        show = _first
    if show is None and _SOUNDS.match(name):
        show = _wrapped("[", "]")
    return name, show


def _positional(arguments: Sequence[str]) -> list[str]:
    """Arguments without a name; `1=` counts as none."""
    found = []
    for argument in arguments:
        if argument[:2] in ("1=", "2=", "3="):
            found.append(argument[2:].strip())
        elif not _NAMED.match(argument):
            found.append(argument.strip())
    return found


def _nth(number: int) -> Show:
    def show(arguments: Sequence[str]) -> str:
        found = _positional(arguments)
        return found[number] if number < len(found) else ""

    return show


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
    named = next((a.partition("=")[2] for a in arguments if a.strip().startswith(("text=", "text ="))), "")
    text = (named or _first(arguments)).strip()
    return f"\n\n{text}\n\n" if text else ""


def _convert(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    if len(found) > 3 and found[1] in ("-", "–", "to", "and", "by", "x", "×", "or", "+/-"):
        between = "–" if found[1] in ("-", "–") else f" {found[1]} "
        return f"{found[0]}{between}{found[2]} {found[3]}"
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
    number = _first(arguments)
    unit = next((a.partition("=")[2].strip() for a in arguments if a.strip().startswith(("u=", "ul="))), "")
    return f"{number} {unit}".strip()


def _ship(arguments: Sequence[str]) -> str:
    return " ".join(filter(None, _positional(arguments)[:2]))


def _as_of(arguments: Sequence[str]) -> str:
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


def _century(arguments: Sequence[str]) -> str:
    found = _positional(arguments)
    return f"{found[0]}{found[1]} siècle" if len(found) > 1 else ""


_first = _nth(0)

_CONSTANTS = {
    **dict.fromkeys(("ndash", "en dash", "–"), "–"),
    **dict.fromkeys(("snd", "snds", "spnd", "spaced ndash", "spaced en dash", "dash", "sndash"), " – "),
    **dict.fromkeys(("mdash", "mdashb", "emdash", "em dash", "—"), "—"),
    **dict.fromkeys(("nbsp", "space", "thinsp", "hair space", "spaces", "·", "dot", "•"), " "),
    **dict.fromkeys(("okina", "hamza", "ayin"), "ʻ"),
    **dict.fromkeys(("br", "clear", "-", "paragraph", "pb"), "\n"),
    "'": "'",
    "'s": "'s",
    "' \"": "' \"",
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
    "euro": "€",
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

_TITLES = {"pagename", "fullpagename", "basepagename", "subpagename"}
_FUNCTIONS = {"lc", "uc", "lcfirst", "ucfirst", "formatnum"}

_FIRST = """
    nowrap nobr nobreak nobold noitalic small smaller big larger em strong var abbr abbrv tooltip unicode iast polytonic
    script smallcaps sc aut u underline strikethrough del code mono kbd tt samp ill illm lien langx nihongo noredirect
    citation wikt-lang linktext blue red green center align vanchor fontsize normal zh gr grc he hebrew sanskrit
    nastaliq
    vr keypress fmtn ta date- latin border chiarire ألمانية 仮リンク
    angbr vet kurziv fett sic typo нобр nota числ число num nb nombre romain rom літ flag flagcountry flagu нп3 нп5
"""
_FIRST_OF_SEVERAL_WORDS = (
    "interlanguage link", "link-interwiki", "не переведено", "не переведено 5", "citation bloc", "citation étrangère",
    "visible anchor", "plain text", "angle bracket", "as written", "petites capitales", "petite capitale",
)  # fmt: skip
_QUOTES = """
    quote cquote quotation blockquote quotebox zitat цитата citat cita poem poemquote cytat citazione citaat
"""

_SHOWN: dict[str, Show] = {
    **dict.fromkeys((*_FIRST.split(), *_FIRST_OF_SEVERAL_WORDS), _first),
    **dict.fromkeys(
        ("lang", "langue", "color", "colour", "font color", "fontcolor", "język", "lingua", "rtl-lang"), _nth(1)
    ),
    "langx": _nth(1),
    **dict.fromkeys(("transl", "transliteration", "translit", "background color"), _last),
    **dict.fromkeys(("math", "mvar", "bigmath", "tmath"), _formula),
    **dict.fromkeys(("chem", "chem2", "ce"), _joined("")),
    **dict.fromkeys(("frac", "sfrac", "fraction", "bruch"), _fraction),
    **dict.fromkeys(("convert", "cvt", "unité", "unit", "unidad", "converter", "convertir"), _convert),
    **dict.fromkeys(("val", "num1"), _value),
    **dict.fromkeys(("sup", "superscript", "exp"), _wrapped("^")),
    **dict.fromkeys(("sub", "subscript", "ind"), _wrapped("_")),
    **dict.fromkeys((*_QUOTES.split(), "quote box", "centered quote"), _block),
    **dict.fromkeys(("séc", "século"), _wrapped("século ")),
    "ipa": _pronunciation,
    "ipac-en": _english_pronunciation,
    "respell": _respelling,
    "segle": _wrapped("segle "),
    "incise": _wrapped("– ", " –"),
    '"': _wrapped("„", "“"),
    "höhe": _wrapped("", " m"),
    "tmp": _joined(" "),
    "us patent": _wrapped("U.S. Patent "),
    "oldstyledate": lambda arguments: ", ".join(_positional(arguments)[:2]),
    **dict.fromkeys(("circa", "c.", "ca."), _wrapped("c. ")),
    **dict.fromkeys(("us$", "usd"), _wrapped("US$")),
    **dict.fromkeys(("a$", "aud"), _wrapped("A$")),
    **dict.fromkeys(("gbp", "£"), _wrapped("£")),
    **dict.fromkeys(("eur", "€"), _wrapped("€")),
    **dict.fromkeys(("ship", "sclass", "sclass2"), _ship),
    **dict.fromkeys(("sortname", "date", "dato", "fecha", "datum"), _joined(" ")),
    **dict.fromkeys(("s", "s-", "-s", "-s-", "sp", "sp-", "siècle"), _century),
    **{prefix: _wrapped(prefix.upper() + " ") for prefix in ("hms", "uss", "ss", "rms", "hmas", "hmcs", "uscgc", "mv")},
    "as of": _as_of,
    "e": _wrapped("×10^"),
    "10^": _wrapped("10^"),
    "sqrt": _wrapped("√"),
    "abs": _wrapped("|", "|"),
}
