"""Wikipedia articles: read by eye against their source, held against mwparserfromhell, and from damaged dumps."""

import bz2
import re
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import mwparserfromhell
import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_source import read_source

from camelid.corpus.source_settings import WikipediaSource
from camelid.corpus.sources import wikipedia
from camelid.corpus.sources.record import RawRecord, Refused, Unreadable
from camelid.corpus.sources.wikitext import wikitext_to_text
from camelid.corpus.sources.wikitext_templates import show_template

_HIDDEN = frozenset({"file", "image", "category"})
_PAPER_LANGUAGES = WikipediaSource(kind="wikipedia", name="w", path=".").languages

Wiki = tuple[list[RawRecord], list[Refused | Unreadable]]


@pytest.fixture(scope="module")
def real_wiki(shared_data: Path) -> Wiki:
    """All dumps of the sample in all their languages."""
    return read_source(shared_data / "wikipedia", kind="wikipedia", languages=())


def _text(wikitext: str, title: str = "Title") -> str:
    return wikitext_to_text(wikitext, title, _HIDDEN)


def _page(number: int, text: str = "", *, namespace: int = 0, extra: str = "") -> str:
    return (
        f"  <page>\n    <title>Page {number}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>{extra}\n"
        f"    <revision><id>1</id><text>{escape(text or f'Text of page {number}.')}</text></revision>\n  </page>\n"
    )


def _dump(*pages: str) -> bytes:
    names = '<siteinfo><namespaces><namespace key="14">Schublade</namespace></namespaces></siteinfo>'
    header = f'<mediawiki xml:lang="de">\n{names}\n'
    return (header + "".join(pages) + "</mediawiki>\n").encode()


def test_nine_in_ten_articles_are_kept_and_every_page_is_accounted_for(real_wiki: Wiki) -> None:
    records, others = real_wiki
    reasons = Counter(other.reason for other in others)
    assert set(reasons) == {"namespace", "redirect", "no text"}
    assert (reasons["namespace"], reasons["redirect"]) == (955, 246)
    assert len(records) + len(others) == 206 + 34 + 2004 + 32
    assert len(records) / (len(records) + reasons["no text"]) > 0.99


def test_markup_is_gone_from_the_real_articles(real_wiki: Wiki) -> None:
    records, _ = real_wiki
    marks = re.compile(
        r"\{\{|\[\[|<ref|\|\}|\}\}|\]\]|\[https?:|'''|</?(?:div|span|br|table|small|center)\b|^[|!]", re.MULTILINE
    )
    formula = re.compile(r"\$[^$]*\$")
    with_marks = [record.title for record in records if marks.search(formula.sub("", record.text))]
    assert set(with_marks) <= {"HTML", "Zipfa lykums"}  # code that the articles show


def test_each_language_of_the_paper_is_clean_of_files_and_categories(shared_data: Path) -> None:
    records, others = read_source(shared_data / "wikipedia" / "minidumps", kind="wikipedia")
    assert {record.language for record in records} == set(_PAPER_LANGUAGES) - {"hu", "ro", "sr", "en"}
    assert {other.detail for other in others if other.reason == "language not wanted"} == {
        "ar", "br", "fi", "ja", "ko", "la", "simple", "tr", "zh",
    }  # fmt: skip
    hidden = re.compile(
        r"^(Категория|Categoria|Kategorie|Kategori|Categoría|Catégorie|Kategorija|Categorie|Kategoria|Категорія|Файл|Fitxer|"
        r"Soubor|Fil|Datei|Archivo|Fichier|Datoteka|File|Bestand|Plik|Ficheiro|Slika|Файл|Bild):|\|thumb|\|\d+px",
        re.MULTILINE,
    )
    for record in records:
        assert not hidden.search(record.text), (record.language, hidden.search(record.text))
        assert record.url.startswith(f"https://{record.language}.wikipedia.org/wiki/")


@pytest.mark.parametrize(
    ("title", "present", "absent"),
    [
        (
            "Autism",
            [
                "Autism is a neurodevelopmental disorder characterized by impaired social interaction, verbal",
                "As of 2010, the number of people affected is estimated at about 1–2 per 1,000 worldwide.",
                "\n\nCharacteristics\n\nAutism is a highly variable neurodevelopmental disorder",
            ],
            ["Hatnote", "Infobox", "Caronna", "Please follow the Wikipedia style", "stacking-cans", "Category:"],
        ),
        (
            "Albedo",
            ["$A =\\left ( \\frac{1329\\times10^{-H/5}}{D} \\right ) ^2$,\n\nwhere $A$ is the astronomical albedo"],
            ["<math>", "thumb|"],
        ),
        (
            "Alkali metal",
            ["the chemical elements lithium (Li), sodium (Na), potassium (K), rubidium (Rb), caesium (Cs), and"],
            ["Periodic table (alkali metals)}}", "group=note", "The symbols Na and K for sodium"],
        ),
    ],
)
def test_articles_read_by_eye(real_wiki: Wiki, title: str, present: list[str], absent: list[str]) -> None:
    for record in real_wiki[0]:
        if record.title == title:
            for text in present:
                assert text in record.text
            for text in absent:
                assert text not in record.text


def test_paragraphs_are_those_of_mwparserfromhell(shared_data: Path, real_wiki: Wiki) -> None:
    """Long paragraphs of each are looked for in the other.

    They differ, read by eye, only in the words of shown templates (mine), in tables and in references (theirs).
    Pronunciations, which stand at the beginning of many articles, are shown in both.
    """
    sounds = re.compile(r"\{\{((?:IPA|respell)[^{}]*)\}\}", re.IGNORECASE)

    def squeeze(text: str) -> str:
        return re.sub(r"[\W_]+", "", text)

    kept = {(record.language, record.title): record.text for record in real_wiki[0]}
    found = Counter[tuple[str, bool]]()
    for dump in sorted((shared_data / "wikipedia").rglob("*.bz2")):
        language = dump.name[:2]
        for page in ElementTree.fromstring(bz2.decompress(dump.read_bytes())).findall("{*}page"):
            text = page.findtext(".//{*}text") or ""
            mine = kept.get((language, page.findtext("{*}title")), "")
            if not 1500 < len(text) < 12_000 or len(mine) < 500 or language == "lt":
                continue
            text = sounds.sub(lambda match: show_template(match[1], ""), text)
            theirs = mwparserfromhell.parse(text).strip_code(keep_template_params=False)
            for here, there, name in ((mine, theirs, "mine"), (theirs, mine, "theirs")):
                squeezed = squeeze(there)
                for line in here.split("\n"):
                    if len(line) > 200 and line[0] not in "|!$*" and "thumb" not in line[:60]:
                        found[name, squeeze(line)[:60] in squeezed] += 1
    for name in ("mine", "theirs"):
        total = found[name, True] + found[name, False]
        assert total > 100
        assert found[name, True] / total > 0.93, (name, found)


_CODE = "\nif (a[[0]]) {{\n    x = '''y''';\n}}\n"


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''slanted'' and '''''both''''' don't", "Bold and slanted and both don't"),
        ("[[Page]], [[Page|words]], [[Page#Part|its part]]", "Page, words, its part"),
        ("[[Page (kind)|]], [[:Category:X|cats]], [[:fr:Page]]", "Page, cats, fr:Page"),
        ("[[File:A.jpg|thumb|With a [[link]] and {{t|x}}]]After", "After"),
        ("[[Datoteka:Photo of x.JPG|mini|caption]]After", "After"),
        ("text\n[[Category:Things]]\n[[de:Ding]]\n[[zh-min-nan:X]]", "text"),
        ("[https://example.org the site] and [//example.org] and https://example.org", "the site and and https://example.org"),
        ("a<ref>note {{cite|x=[[y]]}}</ref> b<ref name=x /> c<!-- secret -->", "a b c"),
        ("Before {{Infobox|a={{nested|b}}|c=\n|d}} after", "Before after"),
        ("{| class=x\n! head\n|-\n| {{cell|1}} || [[a|b]]\n{| \n| inner\n|}\n|}\nafter", "after"),
        ("A {{convert|5|km|mi}} walk, {{frac|1|2}} of {{lang|fr|la ''vie''}}", "A 5 km walk, 1/2 of la vie"),
        ("In {{nowrap|three words}}; {{val|1.5|u=kg}}, {{math|''x'' {{=}} 2}}", "In three words; 1.5 kg, x = 2"),
        ("Siècle: {{s|XIX|e}}. {{PAGENAME}}. {{formatnum:12345}}.", "Siècle: XIXe siècle. Title. 12345."),
        ("so <math>a^2\n= \\frac{{b}}{c}</math> holds", "so $a^2 = \\frac{{b}}{c}$ holds"),
        ("<nowiki>[[not]] ''this''</nowiki> &amp;nbsp; &lt;b&gt;", "[[not]] ''this'' &nbsp; <b>"),
        (f"code:\n<syntaxhighlight lang=c>{_CODE}</syntaxhighlight>\nend", f"code:\n{_CODE}\nend"),
        ("Berlin (German: {{audio|x}}, {{audio|y}}) is ( {{IPA}}; big) .", "Berlin is (big)."),
        ("Berlin (German: {{IPA|de|bɛʁˈliːn}}, {{audio|y}}) {{IPA|[x]}}{{IPA|de|}}", "Berlin (German: [bɛʁˈliːn]) [x]"),
        ("({{IPAc-en|audio=x.ogg|ˈ|aɪ|n|_|ˈ|r|æ|n|d}} {{respell|RA|nd}}; she)", "(/ˈaɪn ˈrænd/ RA-nd; she)"),
        ("(one; {{audio|x}}, {{audio|y}}) (two {{audio|z}} ) wink ;)", "(one) (two) wink ;)"),
        ("({{IPAc-en|UK|ˈ|a|,_|US|b}}, {{respell|AH|,_|BEE|_|C}})", "(UK: /ˈa/, US: /b/, AH, BEE C)"),
        ("== Empty ==\n{{t}}\n== Full ==\n=== Sub ===\ntext\n== References ==\n<references/>", "Full\n\nSub\n\ntext"),
        ("* one\n** deep\n# first\n# second\n: in\n; term\n*", "* one\n  * deep\n1. first\n2. second\nin\nterm"),
        ("x<sup>2</sup>, the 5<sup>th</sup>, H<sub>2</sub>O<br>next<br/>line", "x^2, the 5th, H2O\nnext\nline"),
        ("__NOTOC__\n#start\nsnake__case__x", "1. start\nsnake__case__x"),
        ("{{unclosed\n|a=b\n|c=d\n\nThe article.\n\n[[Half link\n\nGoes on.", "The article.\n\nHalf link\n\nGoes on."),
        ("stray }} and ]] and |} here\n|}\n| rest of a table", "stray and and |} here"),
        ("<div style='x'>a</div><span>b</span> < c and d > e", "a\nb < c and d > e"),
        # A paragraph goes on in the next line; breaks, poems, items and what is indented stand apart.
        ("One\ntwo\n* item\nthree<br>\nfour\n five\nsix\n\nseven", "One two\n* item\nthree\nfour\nfive\nsix\n\nseven"),
        ("a<br><br>\nb <br /> c\nd<br>", "a\n\nb\nc d"),
        ("<poem>one\ntwo\n\nthree</poem>\nprose\ngoes on", "one\ntwo\n\nthree\nprose goes on"),
        ("{{poem|one\ntwo}}\n{{quote|three\nfour}}", "one\ntwo\n\nthree four"),
        # Apostrophes beside marks of italics; in a line whose marks are even, three are bold.
        ("''Iliad'''s words\nl'''[[Iliad]]''\nL{{'}}''[[Iliad]]''", "Iliad's words l'Iliad L'Iliad"),
        ("'''bold''' ''slanted'' d'''even'''", "bold slanted deven"),
        ("né le {{Date de naissance|11|mai|1866}}, {{XXe siècle}}, {{1re}}", "né le 11 mai 1866, XXe siècle, 1re"),
        ("{{s|XIII}}, {{s|I}}, {{-s|V|e}}, {{s}}", "XIIIe siècle, Ier siècle, Ve siècle av. J.-C.,"),
        ("{{sp|V|e|et|VI|e}}, {{-Ve siècle}}", "Ve et VIe siècles, Ve siècle av. J.-C."),
        ("{{nombre|71|sièges}}, {{euro|77.80}}, {{euro}}, {{heure|14|30}}", "71 sièges, €77.80, €, 14 h 30"),
        ("{{lien|fr=A|lang=de}} {{langue|de|texte=B}} {{flag|C (US)|name=C}} {{incise|d|stop}}.", "A B C – d."),
        ("{{convert|6|ft|4|in|cm|0}}, {{convert|60|and(-)|80|g}}, {{cvt|5|-|6|km}}", "6 ft 4 in, 60 and 80 g, 5–6 km"),
        ("{{val|6.241|e=18|u=C}}, {{val|1.5|0.2}}, {{val|1.5|(2)}}", "6.241×10^18 C, 1.5±0.2, 1.5(2)"),
        ("{{Script|Copt|Ⲁ}} {{ill|de|Das}} {{ill|Dies|de|lt=dies}} {{linktext|高|麗}}", "Ⲁ Das dies 高麗"),
        ("{{nihongo|way|道|dō}}, {{nihongo||道|dō}}", "way (道, dō), 道 (dō)"),
        ("{{iw|Город|города|en}}, {{нп5|Город||en}}, {{enS|word}}", "города, Город, englisch word"),
        ("{{c.|9|10}}, {{circa}} 5, {{as of|2005|06|alt=in 2005}}, {{Datum||iso2}}", "c. 9 – c. 10, c. 5, in 2005,"),
        ("A{{Music|flat}}4, a {{RailGauge|1435 mm}} gauge", "A♭4, a 1435 mm gauge"),
        ("{{Columns-list|2|\n* a\n* b}}\n{{ordered list|c|d}}{{hlist|e|[//x]|f}}", "* a\n* b\n\n1. c\n2. d\ne · f"),
        ("{{Senza fonte|Vero}}. {{Référence nécessaire|Vrai|date=1}}.", "Vero. Vrai."),
        ("<gallery>\nA.jpg|x\n</gallery><table><tr><td>a<table></table></td></tr></table>end", "end"),
    ],
)  # fmt: skip
def test_wikitext(wikitext: str, text: str) -> None:
    assert _text(wikitext) == text


@pytest.mark.parametrize(
    "piece",
    [
        "[[",
        "{{",
        "]]",
        "{|\n",
        "|}\n",
        "<ref>",
        "<table>",
        "<math>",
        "[http://a ",
        "(: ",
        "<b ",
        "{{a|",
        "[[a|",
        "''",
        "=",
        "\n*",
    ],
)
def test_hostile_wikitext_takes_no_more_than_its_length(piece: str) -> None:
    start = time.perf_counter()
    _text(piece * 40_000)
    _text(piece * 20_000 + "}}]]" * 20_000)
    assert time.perf_counter() - start < 5


def test_redirects_namespaces_and_models_are_refused(tmp_path: Path) -> None:
    pages = [
        _page(1), _page(2, "#REDIRECT [[Page 1]]"), _page(3, extra='<redirect title="x" />'), _page(4, namespace=14),
        _page(5, "a [[Schublade:X]] b"), _page(6, "{{nothing}}"),
        _page(7).replace("<text>", "<model>json</model><text>"), _page(8).replace("<revision>", "<revision><broken>"),
    ]  # fmt: skip
    (tmp_path / "dewiki-20220701-pages-articles.xml").write_bytes(_dump(*pages))
    records, others = read_source(tmp_path, kind="wikipedia", with_title=True)
    assert [(r.offset, r.text) for r in records] == [(0, "Page 1\n\nText of page 1."), (4, "Page 5\n\na b")]
    assert [(o.offset, o.step, o.reason) for o in others] == [
        (1, "pages", "redirect"),
        (2, "pages", "redirect"),
        (3, "pages", "namespace"),
        (5, "pages", "no text"),
        (6, "pages", "not wikitext"),
        (7, "read", "not XML"),
    ]
    records, _ = read_source(tmp_path, kind="wikipedia", namespaces=(0, 14))
    assert len(records) == 3


def test_of_several_revisions_the_last_counts_and_of_several_elements_the_first(tmp_path: Path) -> None:
    last = "<revision><text>a &lt;b&gt;<![CDATA[&c]]><x>no</x>no</text><text>no</text></revision>"
    pages = [
        _page(1).replace("</page>", f"<title>no</title>{last}</page>"),
        _page(2).replace("</page>", "<revision><model>wikitext</model></revision></page>"),
        _page(3, "&nbsp;").replace("&amp;", "&"),
        _page(4, "<a>" * 200_000).replace("&lt;", "<").replace("&gt;", ">"),
    ]
    (tmp_path / "dewiki-20220701-pages-articles.xml").write_bytes(_dump(*pages))
    records, others = read_source(tmp_path, kind="wikipedia")
    assert [(record.title, record.text) for record in records] == [("Page 1", "a &c")]
    assert [(other.offset, other.reason) for other in others] == [(1, "no text"), (2, "not XML"), (3, "not XML")]
    assert others[1].detail.startswith("undefined entity")


@given(pieces=st.lists(st.sampled_from(["word", " ", "  ", ",", ".", ";", "\t", "\xa0", ",x"]), max_size=12))
def test_runs_of_blanks_are_one_and_none_stands_before_punctuation(pieces: list[str]) -> None:
    text = f"x{''.join(pieces)}x"
    single = re.sub("  +", " ", re.sub("[\t\xa0]", " ", text))
    assert _text(text) == re.sub(r" ([,.;])(?=\s|\Z)", r"\1", single)


def test_the_language_comes_from_the_name_the_setting_or_the_dump(tmp_path: Path) -> None:
    for name in ("frwiki-latest-pages-articles.xml", "export.xml", "zhwiki.xml", "frwiki-multistream-index.txt.bz2"):
        (tmp_path / name).write_bytes(_dump(_page(1)))
    records, others = read_source(tmp_path, kind="wikipedia")
    assert [(r.path, r.language) for r in records] == [("export.xml", "de"), ("frwiki-latest-pages-articles.xml", "fr")]
    assert [(o.path, o.reason, o.detail) for o in others] == [("zhwiki.xml", "language not wanted", "zh")]
    records, _ = read_source(tmp_path, kind="wikipedia", language="it")
    assert {r.language for r in records} == {"it"}
    assert records[0].url == "https://it.wikipedia.org/wiki/Page_1"


def _multistream(num_streams: int, pages_per_stream: int) -> tuple[bytes, list[int]]:
    data = _dump().partition(b"</mediawiki>")[0]
    streams = [data]
    for stream in range(num_streams):
        numbers = range(stream * pages_per_stream, (stream + 1) * pages_per_stream)
        streams.append("".join(_page(number) for number in numbers).encode())
    packed = [bz2.compress(stream) for stream in [*streams, b"</mediawiki>"]]
    return b"".join(packed), [sum(map(len, packed[:index])) for index in range(len(packed))]


def test_streams_are_read_apart_and_together_alike(tmp_path: Path) -> None:
    data, starts = _multistream(20, 3)
    name = "dewiki-pages-articles-multistream.xml.bz2"
    (tmp_path / name).write_bytes(data)
    whole, others = read_source(tmp_path, kind="wikipedia")
    assert not others
    assert [record.title for record in whole] == [f"Page {number}" for number in range(60)]
    assert (whole[7].path, whole[7].offset) == (f"{name}!{starts[3]}", 1)
    source = WikipediaSource(kind="wikipedia", name="w", path=".")
    for num_bytes in (1, 500, 1500, 10**6):
        pieces = wikipedia.split_file(tmp_path, name, num_bytes)
        assert len(pieces) == {1: 22, 10**6: 1}.get(num_bytes, len(pieces))
        assert [record for piece, _ in pieces for record in wikipedia.read_file(source, tmp_path, piece)] == whole


def test_pages_may_lie_across_streams(tmp_path: Path) -> None:
    data = _dump(*(_page(number) for number in range(50)))
    name = "dewiki-pages-articles.xml.bz2"
    source = WikipediaSource(kind="wikipedia", name="w", path=".")
    for step in (97, 131, 1000):  # as parallel packers cut; some cuts fall inside <page>
        (tmp_path / name).write_bytes(b"".join(bz2.compress(data[at : at + step]) for at in range(0, len(data), step)))
        pieces = wikipedia.split_file(tmp_path, name, 300)
        found = [record for piece, _ in pieces for record in wikipedia.read_file(source, tmp_path, piece)]
        assert [record.title for record in found if isinstance(record, RawRecord)] == [f"Page {n}" for n in range(50)]
        assert found == list(wikipedia.read_file(source, tmp_path, name))


def test_damage_costs_one_stream(tmp_path: Path) -> None:
    data, starts = _multistream(20, 3)
    broken = bytearray(data)
    broken[starts[5] + 30] ^= 0xFF
    (tmp_path / "dewiki-pages-articles.xml.bz2").write_bytes(broken)
    records, (other,) = read_source(tmp_path, kind="wikipedia")
    assert len(records) == 57
    assert other.reason == "damaged"
    assert other.path.endswith(f"!{starts[5]}")
    assert f"begins at byte {starts[6]:,}" in other.detail


def test_cut_and_foreign_files_are_told(tmp_path: Path) -> None:
    whole = _dump(_page(1), _page(2))
    (tmp_path / "dewiki-a.xml").write_bytes(whole[:-60])
    (tmp_path / "dewiki-b.xml.bz2").write_bytes(bz2.compress(whole)[:-20])
    (tmp_path / "dewiki-c.xml.bz2").write_bytes(b"no bzip2")
    (tmp_path / "dewiki-d.xml").write_bytes(b"\x00\xff <page> <page>")
    (tmp_path / "dewiki-e.xml.bz2").write_bytes(bz2.compress(whole) + b"\x00" * 99)
    records, others = read_source(tmp_path, kind="wikipedia")
    assert [record.path for record in records] == ["dewiki-a.xml", "dewiki-e.xml.bz2", "dewiki-e.xml.bz2"]
    assert [(other.path[:8], other.reason) for other in others] == [(f"dewiki-{c}", "damaged") for c in "abcde"]


def test_an_endless_page_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia, "_MAX_PAGE_BYTES", 10_000)
    (tmp_path / "dewiki.xml").write_bytes(_dump(_page(1), _page(2, "x" * 300_000), _page(3)))
    records, (other,) = read_source(tmp_path, kind="wikipedia")
    assert [record.offset for record in records] == [0, 2]
    assert (other.offset, other.reason) == (1, "damaged")
