import re
import sys
from pathlib import Path

from sphinx_gallery.sorting import ExplicitOrder

import sktorch_mlp
from sktorch_mlp._estimators.html import DOCS_URL

sys.path.insert(0, str(Path(__file__).parent))
from gallery import OPTIONS

project = "sktorch_mlp"
author = copyright = "the sktorch_mlp developers"
version = release = sktorch_mlp.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = (
    "py:obj"  # names in single backticks are links where they are names of ours
)
extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = f"sktorch_mlp {version}"
html_baseurl = DOCS_URL
html_static_path = ["_static"]
html_favicon = "_static/network.svg"
html_css_files = ["custom.css"]
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_sidebars = {
    page: [] for page in ("benchmarks", "design", "changelog", "development")
}
html_theme_options = {
    "header_links_before_dropdown": 5,
    "navbar_persistent": ["search-button"],
    # Examples have none, which gives their lines of code more room.
    "secondary_sidebar_items": dict.fromkeys(
        ["*", "guide/*", "api/*"], ("page-toc",)
    ),
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_exclude = ".linenos, .gp, .go"  # without prompts and output

autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_validation_checks = {
    "all",
    "ES01",  # an extended summary only where there is more to say
    "EX01",  # the examples stand at the classes
    "SA01",  # likewise See Also
    "SA04",
    "GL01",  # the summary starts on the first line
    "GL08",  # members without a docstring are private
    "RT02",  # returned values have names, as in scikit-learn
    "RT03",
}
# What scikit-learn makes, with docstrings of its own.
numpydoc_validation_exclude = {
    r"\.set_\w+_request$",
    r"\.get_metadata_routing$",
    r"\.(get|set)_params$",
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"^_",
    "copyfile_regex": r"_\w+\.py",  # what the tutorials import
    "within_subsection_order": ExplicitOrder([f"{name}.py" for name in OPTIONS]),
    "reset_argv": "gallery.arguments",
    "reset_modules": ("matplotlib", "gallery.reset"),
    "reference_url": {"sktorch_mlp": None},
    "doc_module": ("sktorch_mlp",),
    "backreferences_dir": "api/examples",
    "capture_repr": ("_repr_html_",),
    "image_srcset": ["2x"],
    "default_thumb_file": str(Path(__file__).parent / "_static/network.svg"),
    "notebook_extensions": set(),  # scripts with options are no notebooks
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "abort_on_example_error": True,
}

#: Pages that files of the repository are, beside those of this folder.
PAGES = {"benchmarks/README.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}


def lead_to_pages(app, path, docname, content):
    """Let the links of an included file lead to pages, or name files that are none."""

    def replace(match):
        text, target, anchor = match.groups(default="")
        file = (path.parent.relative_to("..") / target).as_posix()
        page = PAGES.get(file, file.removeprefix("docs/"))
        if file in PAGES or file.startswith("docs/"):
            return f"[{text}]({page}{anchor})"
        return text if text == target else f"{text} (`{file}`)"

    link = r"(?<!!)\[([^\]]+)\]\((?!http|#)([^)#]+)(#[^)]*)?\)"
    content[0] = re.sub(link, replace, content[0])


def setup(app):
    app.connect("include-read", lead_to_pages)
