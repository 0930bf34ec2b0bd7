curl 'https://api-backend.parti.com/parti_v2/profile/livestream_calendar/events/categories' \
  -H 'Accept: application/json, text/plain, */*' \
  -H 'Origin: https://parti.com' \
  -H 'Referer: https://parti.com/' \
  -H 'User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36' \
  --compressed
