#!lua flags=no-writes
-- HOLDS: the open holds, as rid and hold in turn, after epoch and the moment it began. ARGV: run
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'n', 'run', 'st', 'at')
if marker[2] ~= ARGV[1] or marker[3] ~= 'ready' then return {OTHER_EPOCH, time} end
return {DONE, time, marker[1], marker[4], redis.call('HGETALL', base .. marker[1] .. ':r')}
