"""Every public loss can be cited, once."""

from __future__ import annotations

import pytest

from suzoo import losses
from suzoo.losses.citations import BIBTEX, cite


def test_every_loss_has_its_bibtex():
    assert set(BIBTEX) == set(losses.__all__) - {"chunked_loss"}  # a way to compute a loss, not one of its own
    keys = {}
    for entries in BIBTEX.values():
        assert entries
        for entry in entries:
            assert entry.startswith("@") and entry.count("{") == entry.count("}")
            key = entry[entry.index("{") + 1 : entry.index(",")]
            assert keys.setdefault(key, entry) == entry, f"two entries are called {key}"


def test_cite_gives_each_entry_once():
    text = cite("cosent_loss", "tailr_loss", "gamma_cross_entropy")
    assert text.count("@online{kexue8847") == text.count("@misc{arxiv230213344") == 1
    with pytest.raises(ValueError, match="no loss named cosnet_loss"):
        cite("cosnet_loss")
