"""Detectors of personal data, one module a family; :mod:`tasks.data.personal_data.redaction` puts them together."""
