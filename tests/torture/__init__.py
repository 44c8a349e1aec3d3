"""Torture: a real cluster under real faults, whose promises are checked from recorded histories."""
