"""Figures of labelled results (extra ``report``)."""
