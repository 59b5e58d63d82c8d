"""Source code: licences told by their texts, headers taken out without a line of code, odd files by their figures."""

import gzip
import io
import json
import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_source import read_source

from camelid.corpus.source_settings import CodeQuality
from camelid.corpus.sources import github_quality
from camelid.corpus.sources.github_header import strip_header
from camelid.corpus.sources.github_licence import (
    collect,
    foreign_licences,
    header_licences,
    identify,
    is_allowed,
    is_licence_file,
)
from camelid.corpus.sources.github_quality import find_fault, is_wanted
from camelid.corpus.sources.record import RawRecord, Refused, Unreadable

_LICENCES = {
    "archivesunleashed__aut": "Apache-2.0",
    "github-linguist__linguist.samples": "MIT",
    "gorilla__mux": "BSD-3-Clause",
    "karpathy__llama2.c": "MIT",
    "mozilla__readability": "Apache-2.0",
    "oscar-project__ungoliant": "Apache-2.0",
    "pallets__click": "BSD-3-Clause",
    "redis__hiredis": "BSD-3-Clause",
    "sinatra__sinatra": "MIT",
    "webrecorder__warcio": "Apache-2.0",
}
"""Repositories that are kept; of the other four one is under the GPL and three have no licence."""

_MIT = """MIT License

Copyright (c) 2023 A. Person

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE.
"""
_CODE = "def area(width, height):\n    # the size of a field\n    return width * height\n"
_GPL_HEADER = (
    "# This program is free software: you can redistribute it and/or modify it under the terms of the GNU General\n"
    "# Public License as published by the Free Software Foundation, either version 3 of the License, or (at your\n"
    "# option) any later version.\n"
)

Found = tuple[list[RawRecord], list[Refused | Unreadable]]


@pytest.fixture(scope="module")
def real_code(shared_data: Path) -> Found:
    """All repositories of the sample."""
    return read_source(shared_data / "github", kind="github")


def test_the_licences_of_all_real_repositories_are_right(real_code: Found) -> None:
    records, others = real_code
    kept = {(record.path.partition(".tar.gz")[0], record.licence) for record in records}
    assert kept == set(_LICENCES.items())
    refused = Counter((o.path.partition(".tar.gz")[0], o.reason, o.detail) for o in others if o.step == "licence")
    assert refused["webrecorder__pywb", "other licence", "GPL-3.0, GPL-3.0-or-later"] == 201
    without = {name for name, reason, _ in refused if reason == "no licence"}
    assert without == {
        "Jean-Low__StackERedes",
        "Yoav-Shafir__Elasticsearch-Coffee-Search-Engine-JS",
        "zhouqb__order_dependency_problem",
    }
    own = {
        other.path.rpartition("/")[2]: other.detail for other in others if other.reason == "other licence in its header"
    }
    assert own == {
        ".prettierrc.js": "MPL-2.0",
        "JSDOMParser.js": "MPL-2.0",
        "aa.d": "Boost License",
        "clojure-util.java": "Eclipse Public License",
        "copyfiles.f": "Common Development and Distribution License",
        "ess-julia.el": "GNU General Public License",
        "multiboot.h": "GPL-3.0-or-later",
        "tokenizer.py": "Llama 2 Community License Agreement",
    }


def test_no_licensed_header_is_left_in_a_sample_of_real_files(real_code: Found) -> None:
    legal = re.compile(
        r"copyright (?:\(c\)|©|\d)|licensed under|SPDX-|all rights reserved|permission is hereby granted", re.I
    )
    comment = re.compile(r"\s*(?:/\*|\*|//|#(?!include|define)|--|;|<!--|\(\*|\"\"\")")
    sample = random.Random(1).sample(real_code[0], 200)
    for record in sample:
        for line in record.text.split("\n")[:30]:
            if line.strip() and not comment.match(line):
                break
            assert not legal.search(line), (record.path, line)


def test_code_of_the_real_files_is_untouched(real_code: Found, shared_data: Path) -> None:
    """Everything after the first line of code stands in the file as it stood; shebangs too."""
    with tarfile.open(shared_data / "github" / "webrecorder__warcio.tar.gz") as archive:
        raw = {m.name: archive.extractfile(m).read().decode() for m in archive if m.name.endswith(".py")}  # type: ignore[union-attr]
    kept = {record.path.partition("!")[2]: record.text for record in real_code[0] if "warcio" in record.path}
    assert len(kept) > 30
    for name, text in raw.items():
        if name in kept:
            code = text.replace("\r\n", "\n")
            start = re.search(r"^(?:import|from|class|def)\b", code, re.MULTILINE)
            assert start is None or kept[name].endswith(code[start.start() :]), name
    hiredis = next(r.text for r in real_code[0] if r.path.endswith("/sds.h"))
    assert hiredis.startswith("/* SDSLib 2.0 -- A C dynamic strings library\n")
    assert "Redistribution" not in hiredis
    assert "*/\n\n#ifndef __SDS_H\n#define __SDS_H\n" in hiredis


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        (f"/*\n * Copyright 2017 X\n *\n * Licensed under the Apache License\n */\n\n{_CODE}", _CODE),
        (
            f"// Copyright 2009 The Authors. All rights reserved.\n"
            f"// Use of this source code is governed by a BSD-style\n// license.\n\n// Package x adds.\n{_CODE}",
            f"// Package x adds.\n{_CODE}",
        ),
        (
            f"#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# Copyright (c) 2020 X\n"
            f"# SPDX-License-Identifier: MIT\n\n{_CODE}",
            f"#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n{_CODE}",
        ),
        (f"#!/bin/sh\n# Says hello.\n{_CODE}", f"#!/bin/sh\n# Says hello.\n{_CODE}"),
        (
            f"/* x.c -- adds numbers\n *\n * Copyright (C) 1995 Y\n"
            f" * For conditions see the licence.\n */\n#include <a.h>\n{_CODE}",
            f"/* x.c -- adds numbers\n *\n */\n#include <a.h>\n{_CODE}",
        ),
        (f"/* Copyright 2001 X */\n/* How it works: slowly. */\n{_CODE}", f"/* How it works: slowly. */\n{_CODE}"),
        (f"<!--\n  Copyright 2001 X\n-->\n<p>hello</p>\n{_CODE}", f"<p>hello</p>\n{_CODE}"),
        (f"<?php\n/**\n * @license MIT\n */\nnamespace X;\n{_CODE}", f"<?php\nnamespace X;\n{_CODE}"),
        (f"#pragma once\n\n/* Copyright 2010 X */\n{_CODE}", f"#pragma once\n\n{_CODE}"),
        (f"-- Copyright 2010 X\n-- All rights reserved.\nlocal x = 1\n{_CODE}", f"local x = 1\n{_CODE}"),
        (f"#include <copyright.h>\n{_CODE}", f"#include <copyright.h>\n{_CODE}"),
        (f'x = "Copyright"\n/* Copyright 2020 */\n{_CODE}', f'x = "Copyright"\n/* Copyright 2020 */\n{_CODE}'),
        (f'"""Copyright 2020 X, licensed under the MIT licence."""\n\nimport a\n{_CODE}', f"import a\n{_CODE}"),
        (f'"""Adds numbers."""\n\nimport a\n{_CODE}', f'"""Adds numbers."""\n\nimport a\n{_CODE}'),
        (f"/* Copyright, never closed\n{_CODE}", f"/* Copyright, never closed\n{_CODE}"),
        (
            f"# Builds.\n#\n# This software is licensed as described in the file LICENSE, which\n# you have.\n{_CODE}",
            f"# Builds.\n#\n{_CODE}",
        ),
        (f"#\n# CDDL HEADER START\n#\n# Copyright 2009 X\n#\n# CDDL HEADER END\n#\n\n{_CODE}", _CODE),
        (f"#### BEGIN LICENSE BLOCK ####\n#\n# Copyright 2009 X\n#\n# END LICENSE BLOCK\n{_CODE}", _CODE),
        (f"// This file is released under the LGPL.\n{_CODE}", _CODE),
        (f"// Distributed under the Boost Software License.\n{_CODE}", _CODE),
        (f"# Subject to the Mozilla Public License.\n{_CODE}", _CODE),
        (f"# License: LGPL\n{_CODE}", _CODE),
        (f"# Prints the license block.\n{_CODE}", f"# Prints the license block.\n{_CODE}"),
        ("", ""),
        ("// Copyright 2020", ""),
    ],
)  # fmt: skip
def test_headers(text: str, stripped: str) -> None:
    assert strip_header(text).text == stripped


def test_hostile_headers_end_soon() -> None:
    for text in (
        "/*" * 50_000,
        "// copyright\n" * 50_000,
        "#" * 100_000,
        "\n" * 100_000,
        '"""' * 50_000,
        "/* copyright */" * 20_000,
        "licence " * 20_000,
    ):
        assert isinstance(strip_header(text).text, str)


def test_licence_files_are_told_by_name_and_text() -> None:
    for name in (
        "LICENSE",
        "license.txt",
        "LICENCE.md",
        "COPYING",
        "LICENSE-MIT",
        "a/LICENSE.apache",
        "MIT-LICENSE",
        "UNLICENSE",
    ):
        assert is_licence_file(name), name
    for name in ("licenses.py", "LICENSE_HEADER.txt", "license_check.c", "copying.c", "README"):
        assert not is_licence_file(name), name
    assert identify(_MIT) == ("MIT",)
    assert identify("All rights are mine.") == ()
    assert collect([("a/LICENSE", _MIT), ("a/b/license.md", "See above."), ("c/LICENSE", "Mine alone. " * 99)]) == {
        "a": ("MIT",),
        "c": ("unknown",),
    }
    assert is_allowed("bsd-3-clause", ("BSD",))
    assert is_allowed("Apache-2.0", ("apache",))
    assert not is_allowed("MITNFA", ("MIT",))
    assert header_licences("// SPDX-License-Identifier: (MIT OR GPL-2.0-only)") == ("MIT",)
    assert header_licences("# SPDX-License-Identifier: MIT AND GPL-2.0-only") == ("MIT", "GPL-2.0-ONLY")
    assert header_licences(_GPL_HEADER) == ("GPL-3.0-or-later",)
    assert header_licences("# just words") == ()


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("; under the terms of the GNU General\n; Public License as published", ["GNU General Public License"]),
        ("/* GNU LESSER GENERAL PUBLIC LICENSE */", ["GNU LESSER GENERAL PUBLIC LICENSE"]),
        ("// Released under GPLv3.", ["GPL"]),
        ("# Under the lgpl or the EPL", ["lgpl"]),
        (
            "# terms of the Common Development and Distribution License (CDDL)",
            ["Common Development and Distribution License"],
        ),
        ("# Author: A Person.\n# Mozilla Public License Version 1.1", ["Mozilla Public License"]),
        ("# subject to the boost Software License, Version 1.0", ["boost Software License"]),
        (
            "# Creative Commons Attribution 4.0 International License",
            ["Creative Commons Attribution 4.0 International License"],
        ),
        ("# the Llama 2 Community License Agreement.", ["Llama 2 Community License Agreement"]),
        ("# under the NumPy License and the GPL", ["NumPy License", "GPL"]),
        ("# the MIT License and the GPL", ["GPL"]),
        ("# the MIT License or the GPL", []),
        ("# Dual licensed under the MIT and GPL licenses", []),
        ("# MIT/GPL2 licensed", []),
        ("# The Expat License, X11 License, Modified BSD License, Apache Software License", []),
        ("# Copyright The Python Software Foundation\n# Apache License, Version 2.0", []),
        ("# Copyright 2013 A. Person. BSD 3-Clause license", []),
        ("# Copyright 2020 Ann Person\n# License: see LICENSE. This License is in License.txt.", []),
        ("# Copyright 2020 Ann Person\n# License MIT", []),
        ("# Copyright 2020 Ann Person\n\n# License of the Software", []),
        ("# BEGIN LICENSE BLOCK, see the License and the Software License Agreement", []),
        ("# a library for licences", []),
    ],
)
def test_licences_that_a_header_calls_by_name(header: str, names: list[str]) -> None:
    assert header_licences(header) == ()
    assert foreign_licences(header, ("MIT", "BSD", "Apache")) == names


def test_a_licence_called_by_name_may_be_allowed() -> None:
    gpl, isc = "# under the GNU General Public License.", "# under the ISC License"
    assert foreign_licences(gpl, ("GPL-2.0",)) == foreign_licences(gpl, ("gpl",)) == []
    assert foreign_licences(gpl, ("LGPL",)) == ["GNU General Public License"]
    assert foreign_licences(isc, ("ISC",)) == []
    assert foreign_licences(isc, ("MIT",)) == ["ISC License"]
    assert foreign_licences("# distributed under the MIT license", ("Apache",)) == ["MIT"]
    assert foreign_licences("# under the Llama 2 Community License", ("Llama",)) == []


def test_hostile_notices_end_soon() -> None:
    for text in (
        "Aa ",
        "MIT ",
        "GPL or ",
        "GPL ",
        "A-",
        "A 1.1",
        "A  \n",
        "A" + " " * 999,
        "Public License ",
        "License:",
    ):
        assert isinstance(foreign_licences((text * 20_000)[:20_000], ("MIT",)), list)


def test_the_nearest_licence_counts_and_the_header_s_own(tmp_path: Path) -> None:
    for path, text in {
        "mine/LICENSE": _MIT, "mine/a.py": _CODE, "mine/vendor/COPYING": "Nobody may use this. " * 40,
        "mine/vendor/b.py": _CODE + "#b\n",
        "mine/docs/license.md": "See LICENSE.", "mine/docs/c.py": _CODE + "#c\n", "mine/gpl.py": _GPL_HEADER + _CODE,
        "bare/d.py": _CODE, "mine/picture.png": "x", "mine/.git/e.py": _CODE,
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    records, others = read_source(tmp_path, kind="github")
    assert [(r.path, r.licence) for r in records] == [("mine/a.py", "MIT"), ("mine/docs/c.py", "MIT")]
    assert {(o.path, o.step, o.reason, o.detail) for o in others} == {
        ("bare/d.py", "licence", "no licence", ""),
        ("mine/LICENSE", "code", "licence file", ""),
        ("mine/docs/license.md", "code", "licence file", ""),
        ("mine/gpl.py", "licence", "other licence in its header", "GPL-3.0-or-later"),
        ("mine/picture.png", "code", "other suffix", ""),
        ("mine/vendor/COPYING", "licence", "other licence", "unknown"),
        ("mine/vendor/b.py", "licence", "other licence", "unknown"),
    }
    records, _ = read_source(tmp_path, kind="github", licence="PSF-2.0", licences=["MIT", "PSF"])
    assert {record.path: record.licence for record in records}["bare/d.py"] == "PSF-2.0"


def test_exports_of_bigquery(tmp_path: Path) -> None:
    rows = [
        {"content": _CODE, "license": "mit", "path": "a.py", "repo_name": "x/y"},
        {"content": _CODE + "#b", "license": "gpl-3.0", "path": "b.py", "repo_name": "x/y"},
        {"content": None, "license": "apache-2.0", "path": "c.py", "repo_name": "x/y"},
        {
            "content": "// Copyright 2001 X\n" + _CODE,
            "license": "bsd-3-clause",
            "sample_path": "d/d.c",
            "sample_repo_name": "z",
        },
        {"content": _CODE, "license": None, "path": "e.py", "repo_name": "x/y"},
        {"content": _CODE, "license": "mit", "path": "f.crt", "repo_name": "x/y"},
    ]
    lines = "\n".join(map(json.dumps, rows)) + "\n{broken\n"
    expected = [("x/y/a.py", "mit", _CODE), ("z/d/d.c", "bsd-3-clause", _CODE)]
    reasons = ["other licence", "no text", "no licence", "other suffix"]
    for name, data in (
        ("000.jsonl", lines.encode()),
        ("000.json.gz", gzip.compress(lines.encode())),
        ("000.parquet", b""),
    ):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(data)
        if not data:
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        records, others = read_source(folder, kind="github")
        told = [other.reason for other in others]
        if name == "000.parquet":  # a table has the columns of its first row
            assert [(r.url, r.licence, r.text) for r in records][:1] == expected[:1]
            assert told == reasons
        else:
            assert [(r.url, r.licence, r.text) for r in records] == expected
            assert told == [*reasons, "not JSON"]
            assert [record.offset for record in records] == [0, 3]


def test_a_row_that_is_not_utf8_costs_itself_alone(tmp_path: Path) -> None:
    texts = [f"{_CODE}# {number}\n".encode() for number in range(100)]
    texts[70] = b"caf\xe9"
    names = [b"a.py"] * 100
    names[3] = b"\xff.py"
    columns = {"content": texts, "path": names, "license": [b"mit"] * 100}
    arrays = {
        name: pa.Array.from_buffers(pa.string(), 100, pa.array(column, pa.binary()).buffers())
        for name, column in columns.items()
    }
    pq.write_table(pa.table(arrays), tmp_path / "a.parquet")
    records, others = read_source(tmp_path, kind="github")
    assert [record.offset for record in records] == [number for number in range(100) if number not in (3, 70)]
    assert all(record.text.encode() == texts[record.offset] for record in records)
    assert [(o.offset, o.reason, o.detail) for o in others] == [
        (3, "not UTF-8", "row 3, byte 0 of a field"),
        (70, "not UTF-8", "row 70, byte 3 of a field"),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (_CODE, None),
        (" \n\n", "empty"),
        ("x = 1\n" + "y" * 1001 + "\n", "long line"),
        (("word " * 30 + "\n") * 20, "long lines on average"),
        ("+-*/ = {};\n" * 20 + "ab\n", "few letters and digits"),
        ("1, 2, 3, 4, 5, 6\n" * 20 + "ab\n", "few letters per token"),
    ],
)
def test_odd_files_are_told(text: str, fault: str | None) -> None:
    found = find_fault(text, CodeQuality())
    assert (found[0] if found else None) == fault


@given(text=st.text(st.characters(max_codepoint=127)))
def test_ascii_is_counted_like_any_text(text: str) -> None:
    assert github_quality._count(text) == (
        sum(map(str.isalpha, text)),
        sum(map(str.isalnum, text)),
        len(re.findall(r"\w+|[^\w\s]", text)),
    )


def test_wanted_names() -> None:
    quality = CodeQuality()
    for name in ("a/b.py", "Makefile", "src/Dockerfile", "X.CPP", "main.C"):
        assert is_wanted(name, quality), name
    for name in ("a.json", "b.crt", "py", "Makefile.old", "a.min"):
        assert not is_wanted(name, quality), name
    assert is_wanted("anything", CodeQuality(suffixes=()))


def test_damaged_and_hostile_archives(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (
            ("r/LICENSE", _MIT),
            ("../../escape.py", _CODE),
            ("r/a.py", _CODE),
            ("r/b.py", "x" * 5000),
            ("r/c.py", "caf\xe9"),
        ):
            member = tarfile.TarInfo(name)
            raw = data.encode("latin-1")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
        link = tarfile.TarInfo("r/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(buffer.getvalue()))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(buffer.getvalue())[:100])
    (tmp_path / "c.tar.gz").write_bytes(b"no archive")
    huge = tarfile.TarInfo("x" * 50)
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "d.tar").write_bytes(huge.tobuf() + b"\0" * 1024)
    records, others = read_source(tmp_path, kind="github", quality={"max_bytes": 4000})
    assert [record.path for record in records] == ["a.tar.gz!r/a.py"]
    assert [(o.path.partition("!")[2] or o.path, o.reason) for o in others] == [
        ("r/LICENSE", "licence file"),
        ("../../escape.py", "no licence"),
        ("r/b.py", "too large"),
        ("r/c.py", "not UTF-8"),
        ("b.tar.gz", "damaged"),
        ("c.tar.gz", "damaged"),
        ("d.tar", "damaged"),
    ]


def test_what_stands_before_the_damage_of_an_archive_is_kept(shared_data: Path, tmp_path: Path) -> None:
    whole = shared_data / "github" / "pallets__click.tar.gz"
    data = whole.read_bytes()
    (tmp_path / whole.name).write_bytes(data[: len(data) // 2])
    records, others = read_source(tmp_path, kind="github")
    all_records, all_others = read_source(shared_data, kind="github", path=f"github/{whole.name}")
    assert len(records) > 50
    assert records == all_records[: len(records)]
    assert others[:-1] == all_others[: len(others) - 1]
    damage = others[-1]
    assert (damage.path, damage.offset, damage.reason) == (whole.name, len(records) + len(others) - 1, "damaged")
    assert damage.detail.endswith(f" after {damage.offset} files, {len(records)} of which were kept")


def test_links_to_other_files_of_the_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(_CODE)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "LICENSE").write_text(_MIT)
    (folder / "a.py").write_text(_CODE + "#a\n")
    (folder / "again.py").symlink_to(folder / "a.py")
    (folder / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    records, _ = read_source(tmp_path, kind="github", path="code")
    assert [record.path for record in records] == ["a.py", "linked.py"]
