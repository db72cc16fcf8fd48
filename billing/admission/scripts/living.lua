#!lua
-- LIVING: the workers whose lease lapsed no longer ago than the grace. KEYS[1]: the leases; ARGV: grace in ms
-- -> {time, {worker ...}}
local time = now_ms()
return {time, redis.call('ZRANGEBYSCORE', KEYS[1], time - tonumber(ARGV[1]), '+inf')}
