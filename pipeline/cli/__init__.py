"""The verbs for people: a file is named like its verb."""
