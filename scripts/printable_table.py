#!/usr/bin/env python3.11
"""Writes down which characters Python 3.11 (Unicode 14.0) prints as they are.

Run from the root of the repository; it writes two files that say the same in two ways:

    src/outputs/objects/format/python_repr/printable.rs     the table of the program, from str.isprintable()
    tests/data/python-repr/escaped.txt      what the tests compare with, from repr() itself

Any other Unicode version would give another table, and with it other bytes in the published
objects, so any other version is refused.
"""

import pathlib
import sys
import textwrap
import unicodedata

UNICODE = "14.0.0"
CODE_POINTS = range(0x110000)
PLANE = 0x10000

TABLE = pathlib.Path("src/outputs/objects/format/python_repr/printable.rs")
ESCAPED = pathlib.Path("tests/data/python-repr/escaped.txt")

HEAD = '''\
//! The characters that Python prints as they are: a table frozen from Python 3.11, Unicode 14.0.
//!
//! Spark's Python program writes `str(tuple)`, so the escaped characters depend on the Unicode
//! version of its Python. The table in Rust's library changes with the toolchain. This table does
//! not, so that the same words always give the same bytes.
//!
//! Each column lists, ascending, the code points at which the answer changes; below the first the
//! answer is no. Written by `scripts/printable_table.py`: change that, not this.

/// Returns the result of Python 3.11's `str.isprintable` for `character`: an odd number of changes
/// lies at or below a character that is printed as it is.
pub fn is_printable(character: char) -> bool {
    let code = character as u32;
    let changes = match u16::try_from(code) {
        Ok(code) => PLANE_0.partition_point(|&change| change <= code),
        Err(_) => ABOVE.partition_point(|&change| change <= code),
    };
    changes % 2 == 1
}
'''


def ranges(holds):
    """The half-open ranges of code points for which `holds` is true."""
    found = []
    for code in CODE_POINTS:
        if holds(chr(code)):
            if found and found[-1][1] == code:
                found[-1][1] = code + 1
            else:
                found.append([code, code + 1])
    return found


def column(name, kind, doc, numbers):
    """A Rust static, wrapped as rustfmt wraps it."""
    body = textwrap.wrap(", ".join(f"{n:#x}" for n in numbers) + ",", 100 - 4)
    lines = "".join(f"    {line}\n" for line in body)
    return f"\n/// {doc}\nstatic {name}: [{kind}; {len(numbers)}] = [\n{lines}];\n"


def main():
    if unicodedata.unidata_version != UNICODE:
        sys.exit(f"needs Unicode {UNICODE} (Python 3.11), not {unicodedata.unidata_version}")
    printable = ranges(str.isprintable)
    if any(first < PLANE < end for first, end in printable):
        sys.exit("a range crosses U+10000: the two columns must be cut there")
    changes = [code for pair in printable for code in pair]
    low = [code for code in changes if code < PLANE]
    high = [code for code in changes if code >= PLANE]
    if len(low) % 2:
        sys.exit("the last range below U+10000 ends there: the two columns must be cut there")
    text = HEAD
    text += column("PLANE_0", "u16", "Changes below U+10000.", low)
    text += column("ABOVE", "u32", "Changes from U+10000 on.", high)
    TABLE.write_text(text, encoding="ascii")

    escaped = ranges(lambda character: character not in repr(character))
    ESCAPED.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{first:06x} {end - 1:06x}\n" for first, end in escaped]
    ESCAPED.write_text("".join(lines), encoding="ascii")
    print(f"{len(printable)} printable ranges, {len(escaped)} escaped ranges")


main()
