"""The collector of parti.com livestreams: a Scrapy project."""

__version__ = "0.1.0"
