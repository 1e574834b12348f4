"""What was computed and kept: the library, its rows, what travels in and out, questions in SQL."""
