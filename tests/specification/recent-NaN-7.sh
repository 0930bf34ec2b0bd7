curl 'https://api-backend.parti.com/parti_v2/profile/get_livestream_channel_info/recent?sort_by_date_desc=true&from_ts=1627948800&to_ts=2229292800&followed_only=false&categories=NaN&categories=7&offset=0&limit=15&top_views_sort=false' \
  -H 'Accept: application/json, text/plain, */*' \
  -H 'Origin: https://parti.com' \
  -H 'Referer: https://parti.com/' \
  -H 'User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36' \
  --compressed
