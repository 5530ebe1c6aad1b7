#!/usr/bin/env python3
"""Counts the rooms of a folder of Rust sources, and the arrows between them.

`rooms.py [--list] [--tests] SRC...` prints for each SRC, a crate's `src`:
- rooms: the files and folder modules that stand directly in SRC, without lib.rs and main.rs;
- arrows: pairs of different rooms, where the first has a path to the second (`use crate::...`,
  `super::...`, or inline). A path to a name that lib.rs or main.rs re-exports counts as a path to
  the room that the name comes from;
- up: the fewest arrows that must go so that no circle is left, found greedily;
- circles: strongly connected components of more than one room.

`--list` also prints the arrows and the circles. Code under `#[cfg(test)]` counts only with `--tests`.
"""

import re
import sys
from pathlib import Path

ROOTS = ("lib.rs", "main.rs")
ITEM = re.compile(r"\b(?:struct|enum|union|trait|fn|type|const|static|mod|macro_rules!)\s+(?:r#)?([A-Za-z_]\w*)")
USE = re.compile(r"\buse\s+([^;]+);")


def plain(text):
    """Returns the text without comments, and with empty strings and characters."""
    out, at = [], 0
    token = re.compile(
        r"""//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^\\'])'""", re.S
    )
    for found in token.finditer(text):
        out.append(text[at : found.start()])
        start = found.group()[:2]
        out.append(" " if start in ("//", "/*") else '""')
        at = found.end()
    out.append(text[at:])
    return "".join(out)


def without_tests(text):
    """Returns the text without items under `#[cfg(test)]`."""
    while found := re.search(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*", text):
        at, depth = found.end(), 0
        while at < len(text):
            letter = text[at]
            depth += (letter in "{([") - (letter in "})]")
            at += 1
            if depth == 0 and letter in ";}":
                break
        text = text[: found.start()] + text[at:]
    return text


def split(tree):
    """Splits the text of a group at its commas."""
    parts, depth, last = [], 0, 0
    for at, letter in enumerate(tree):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(tree[last:at])
            last = at + 1
    return [part.strip() for part in parts + [tree[last:]] if part.strip()]


def leaves(tree):
    """Returns the paths of a use tree as (segments, name under which it is known)."""
    tree = tree.strip()
    if tree.endswith("}") and "{" in tree:
        head, group = tree.split("{", 1)
        prefix = [part.strip() for part in head.split("::") if part.strip()]
        return [(prefix + path, name) for part in split(group[:-1]) for path, name in leaves(part)]
    path, _, renamed = tree.partition(" as ")
    segments = [part.strip().removeprefix("r#") for part in path.split("::") if part.strip()]
    if segments and segments[-1] == "self" and len(segments) > 1:
        segments = segments[:-1]
    return [(segments, renamed.strip() or (segments[-1] if segments else ""))]


def paths(text):
    """Returns all paths that begin with `crate` or `super`, in use trees and inline."""
    for found in re.finditer(r"(?<![\w:])(crate|super)\s*::\s*", text):
        at, depth = found.end(), 0
        while at < len(text):
            letter = text[at]
            if depth == 0 and not (letter.isalnum() or letter in "_#:{* \n"):
                break
            if depth == 0 and letter in " \n" and not text[:at].rstrip().endswith("::"):
                break
            if letter == "{" and depth == 0 and not text[:at].rstrip().endswith("::"):
                break
            depth += (letter == "{") - (letter == "}")
            at += 1
            if letter == "}" and depth == 0:
                break
        for segments, _ in leaves(text[found.start() : at]):
            yield segments


class Crate:
    def __init__(self, src, tests=False):
        self.src = Path(src)
        self.files = {}
        for path in sorted(self.src.rglob("*.rs")):
            text = plain(path.read_text(encoding="utf-8"))
            self.files[path.relative_to(self.src)] = text if tests else without_tests(text)
        self.rooms = sorted({self.room(path) for path in self.files if self.room(path)})
        self.names = self.exports()

    @staticmethod
    def room(path):
        return None if str(path) in ROOTS else path.parts[0].removesuffix(".rs")

    @staticmethod
    def module(path):
        parts = [part.removesuffix(".rs") for part in path.parts]
        return parts[:-1] if parts[-1] == "mod" or str(path) in ROOTS else parts

    def exports(self):
        """Returns the rooms of the names that the root takes from rooms."""
        names = {}
        for path in self.files:
            if str(path) not in ROOTS:
                continue
            for found in USE.finditer(self.files[path]):
                for segments, name in leaves(found.group(1)):
                    while segments and segments[0] in ("crate", "self"):
                        segments = segments[1:]
                    if not segments or segments[0] not in self.rooms:
                        continue
                    if name == "*":
                        for item in self.items(segments[0]):
                            names.setdefault(item, segments[0])
                    else:
                        names[name] = segments[0]
        return names

    def items(self, room):
        texts = [text for path, text in self.files.items() if self.room(path) == room]
        items = {name for text in texts for name in ITEM.findall(text)}
        uses = [use for text in texts for use in USE.findall(text)]
        return items | {name for use in uses for _, name in leaves(use)}

    def arrows(self):
        arrows = set()
        for path, text in self.files.items():
            room = self.room(path)
            if room is None:
                continue
            for segments in paths(text):
                here = self.module(path)
                if segments[0] == "crate":
                    target = segments[1:]
                else:
                    while segments and segments[0] == "super":
                        here, segments = here[:-1], segments[1:]
                    target = here + segments
                if not target:
                    continue
                to = target[0] if target[0] in self.rooms else self.names.get(target[0])
                if to and to != room:
                    arrows.add((room, to))
        return arrows


def circles(rooms, arrows):
    """Returns the strongly connected components of more than one room (Tarjan, 1972)."""
    after = {room: sorted(to for frm, to in arrows if frm == room) for room in rooms}
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(room):
        index[room] = low[room] = len(index)
        stack.append(room)
        on.add(room)
        for to in after[room]:
            if to not in index:
                visit(to)
                low[room] = min(low[room], low[to])
            elif to in on:
                low[room] = min(low[room], index[to])
        if low[room] == index[room]:
            part = []
            while True:
                part.append(stack.pop())
                on.discard(part[-1])
                if part[-1] == room:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    for room in rooms:
        if room not in index:
            visit(room)
    return found


def upwards(part, arrows):
    """Returns the arrows of a circle that point against an order of its rooms with few such arrows
    (Eades, Lin and Smyth, 1993, improved by moving single rooms)."""
    inner = {(frm, to) for frm, to in arrows if frm in part and to in part}
    left, first, last = set(part), [], []
    while left:
        out = {room: sum(1 for frm, to in inner if frm == room and to in left) for room in left}
        into = {room: sum(1 for frm, to in inner if to == room and frm in left) for room in left}
        sinks = sorted(room for room in left if out[room] == 0)
        sources = sorted(room for room in left if into[room] == 0)
        if sinks:
            last.insert(0, sinks[0])
            left.discard(sinks[0])
        elif sources:
            first.append(sources[0])
            left.discard(sources[0])
        else:
            room = max(sorted(left), key=lambda room: out[room] - into[room])
            first.append(room)
            left.discard(room)
    order = first + last

    def against(order):
        place = {room: at for at, room in enumerate(order)}
        return [(frm, to) for frm, to in sorted(inner) if place[frm] > place[to]]

    improved = True
    while improved:
        improved = False
        for room in list(order):
            rest = [other for other in order if other != room]
            best = min(
                (rest[:at] + [room] + rest[at:] for at in range(len(order))), key=lambda other: len(against(other))
            )
            if len(against(best)) < len(against(order)):
                order, improved = best, True
    return against(order)


def main(arguments):
    show, tests = "--list" in arguments, "--tests" in arguments
    sources = [argument for argument in arguments if not argument.startswith("--")]
    if not sources:
        sys.exit(__doc__)
    width = max(len(source) for source in sources)
    print(f"{'src':{width}}  rooms  arrows  up  circles")
    for source in sources:
        crate = Crate(source, tests)
        arrows = crate.arrows()
        found = circles(crate.rooms, arrows)
        up = [arrow for part in found for arrow in upwards(part, arrows)]
        print(f"{source:{width}}  {len(crate.rooms):5}  {len(arrows):6}  {len(up):2}  {len(found):7}")
        if show:
            for frm in crate.rooms:
                to = sorted(to for room, to in arrows if room == frm)
                print(f"    {frm} -> {', '.join(to) or '-'}")
            for part in found:
                print(f"    circle: {', '.join(part)}")
            for frm, to in up:
                print(f"    up: {frm} -> {to}")


if __name__ == "__main__":
    main(sys.argv[1:])
