#!lua flags=allow-oom
-- ACKNOWLEDGE: a worker has declared its open calls and sent its frames again. ARGV: worker, epoch, run
local time = now_ms()
local prefix = open_epoch(ARGV[2], ARGV[3], false)
if not prefix then return {OTHER_EPOCH, time} end
redis.call('HSET', prefix .. 'ack', ARGV[1], ARGV[2])
return {DONE, time}
