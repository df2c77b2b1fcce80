"""Audits: questions besides accuracy that any run can ask of its networks in the end; one file is one audit."""
