"""A hook of MkDocs: it adds the pages outside docs/ (extra.pages of mkdocs.yml) and the pictures they show.

Links lead where they lead in the repository; the files stay as they are, for readers of the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"(```.*?```)", re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files, config):
    for path, page in config.extra["pages"].items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for link in LINK.findall(text):
            picture = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            name = picture.relative_to(ROOT).as_posix()
            if picture.suffix in (".png", ".svg") and files.get_file_from_path(name) is None:  # two pages may show it
                files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files of the repository become links between pages of the site."""
    pages, own = config.extra["pages"], page.file.src_uri
    source = next((path for path, uri in pages.items() if uri == own), f"docs/{own}")

    def moved(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        uri = pages.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(uri) is None:
            raise PluginError(f"{source} links to {match[1]}, which has no page: add it to extra.pages of mkdocs.yml")
        return posixpath.relpath(uri, posixpath.dirname(own) or ".")

    # every second part is a block of code, where `](` is no link
    parts = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(moved, part) for number, part in enumerate(parts))


def on_post_page(output, page, config):
    """Material's search dialog gets the name that screen readers say."""
    return output.replace(
        'data-md-component="search" role="dialog">', 'data-md-component="search" role="dialog" aria-label="Search">'
    )
