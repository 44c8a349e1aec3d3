"""Membership: who hears whom, whose lease runs, who is declared down."""
