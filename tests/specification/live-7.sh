curl 'https://api-backend.parti.com/parti_v2/profile/get_livestream_channel_info/live?limit=12&offset=0&categories=7' \
  -H 'Accept: application/json, text/plain, */*' \
  -H 'Origin: https://parti.com' \
  -H 'Referer: https://parti.com/' \
  -H 'User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36' \
  --compressed
