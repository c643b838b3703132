"""Curation of sources: filters, masks, de-duplication and decontamination, through datatrove; see docs/curation.md.

Invariant: importing this needs neither datatrove nor anything else that a recipe without [curation] can do without.
"""
