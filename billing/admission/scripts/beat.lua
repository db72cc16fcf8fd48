#!lua flags=allow-oom
-- BEAT: a worker lives. KEYS[1]: the leases; ARGV: worker, how long in ms, run -> {1, time}
-- Beside the leases stands since when this run of the server hears beats: a list that was lost, or came back old,
-- says nothing until every worker had time for one.
local time = now_ms()
local since = base .. 'since'
if redis.call('HEXISTS', since, ARGV[3]) == 0 then
  redis.call('DEL', since)
  redis.call('HSET', since, ARGV[3], digits(time))
end
redis.call('ZADD', KEYS[1], digits(time + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', digits(time - 86400000))
return {DONE, time}
