#!lua flags=allow-oom
-- COMMIT: all of the ledger is written; workers now declare their open calls and send their frames again.
-- ARGV: nonce, how many counters, watermarks and counted calls were written
-- -> {1, time} or {-2, time} when something of it is gone
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'n', 'st', 'nonce')
if marker[2] ~= 'rebuilding' or marker[3] ~= ARGV[1] then return {OTHER_EPOCH, time} end
local prefix = base .. marker[1] .. ':'
if redis.call('ZCARD', prefix .. 'w') ~= tonumber(ARGV[2]) or redis.call('HLEN', prefix .. 'a') ~= tonumber(ARGV[3])
  or redis.call('HLEN', prefix .. 't') ~= tonumber(ARGV[4]) then
  return {OTHER_EPOCH, time}
end
redis.call('HSET', KEYS[1], 'st', 'declaring', 'committed', digits(time))
return {DONE, time}
