"""De-identification by PS3.15 Annex E: pure, recursive, and closed against what it does not know.

    cleaned = deidentify(data_set, BASIC, key)      # a Cleaned, or Withheld with a reason code

`docs/deidentification.md` states what is removed, replaced and withheld (PS3.15 E.1.3).
"""

from __future__ import annotations

from pacs.deid.engine import Cleaned, Report, deidentify
from pacs.deid.policy import BASIC, Action, Policy
from pacs.deid.reasons import REASONS, Withheld

__all__ = ["BASIC", "REASONS", "Action", "Cleaned", "Policy", "Report", "Withheld", "deidentify"]
