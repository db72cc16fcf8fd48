#!lua flags=allow-oom
-- WRITE: what the ledger says, in pieces. ARGV: nonce, kind, then
--   counters: name, amount, end of window (s) ...; watermarks: spool, number ...; counted: rid, "money tokens" ...; then run
-- -> {1, time} or {-2, time} when this rebuild is no longer the one under way
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'n', 'st', 'nonce')
if marker[2] ~= 'rebuilding' or marker[3] ~= ARGV[1] then return {OTHER_EPOCH, time} end -- rule: nonce
local prefix = base .. marker[1] .. ':'
if ARGV[2] == 'counters' then
  for i = 3, #ARGV - 1, 3 do
    redis.call('HSET', prefix .. ARGV[i], 'b', ARGV[i + 1])
    redis.call('ZADD', prefix .. 'w', ARGV[i + 2], ARGV[i])
    keep(prefix .. ARGV[i], ARGV[i + 2], time)
  end
else
  local key = prefix .. (ARGV[2] == 'watermarks' and 'a' or 't')
  for i = 3, #ARGV - 1, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  end
end
return {DONE, time}
