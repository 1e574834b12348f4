"""Flow: by which way the information travelled from the question to the answer."""
