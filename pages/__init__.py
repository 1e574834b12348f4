"""One file per page, one page per question; no maths and no SQL here."""
