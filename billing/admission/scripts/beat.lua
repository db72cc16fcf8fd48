#!lua flags=allow-oom
-- BEAT: a worker lives. KEYS[1]: the leases; ARGV: worker, how long in ms -> {1, time}
local time = now_ms()
redis.call('ZADD', KEYS[1], time + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time - 86400000)
return {DONE, time}
