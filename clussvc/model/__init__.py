"""The vocabulary of the product: identifiers, states, the configuration, events, actions, reports.

Plain values of floor 0. Every other package speaks in these terms and none of these modules knows any other package.
"""
