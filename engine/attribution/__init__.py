"""Attribution: which context tokens made the model say this. One file per method."""
