#!lua flags=no-writes
-- LIVING: the workers whose lease lapsed no longer ago than the grace. KEYS[1]: the leases; ARGV: grace in ms, run
-- -> {time, since when beats are heard in this run or 0, {worker ...}}
local time = now_ms()
local since = redis.call('HGET', base .. 'since', ARGV[2]) or 0
return {time, tonumber(since), redis.call('ZRANGEBYSCORE', KEYS[1], digits(time - tonumber(ARGV[1])), '+inf')}
