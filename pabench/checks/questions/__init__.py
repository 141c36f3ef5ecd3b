"""The suite's questions by topic; ``suite.py`` puts them together."""
