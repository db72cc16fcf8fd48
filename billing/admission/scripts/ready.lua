#!lua flags=allow-oom
-- READY: the epoch is complete. ARGV: nonce -> {1, time} or {-2, time}
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'st', 'nonce')
if marker[2] ~= ARGV[1] or marker[1] == 'rebuilding' then return {OTHER_EPOCH, time} end
redis.call('HSET', KEYS[1], 'st', 'ready')
return {DONE, time}
