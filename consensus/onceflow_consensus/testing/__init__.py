"""Tools to prove the engines: runners of text cases and in-memory stand-ins."""
