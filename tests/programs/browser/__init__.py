"""Drives the pages of insights in headless Chromium: `python -m tests.programs.browser`."""
