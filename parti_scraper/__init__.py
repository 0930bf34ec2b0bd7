"""The collector of parti.com livestreams: a Scrapy project."""
