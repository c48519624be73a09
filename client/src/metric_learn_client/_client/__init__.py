"""The two clients, private: what they decide (core/), and the shells that perform it."""
