import sktorch_mlp

project = "sktorch_mlp"
author = copyright = "the sktorch_mlp developers"
version = release = sktorch_mlp.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.extlinks", "numpydoc", "myst_parser"]
extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sktorch_mlp {version}"
autodoc_typehints = "none"
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
numpydoc_validation_exclude = {r"\.set_\w+_request$", r"\.get_metadata_routing$", r"\.(get|set)_params$"}
