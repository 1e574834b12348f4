"""Thin Streamlit wrappers that pages share."""
