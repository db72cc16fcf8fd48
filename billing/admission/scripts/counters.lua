#!lua flags=no-writes
-- COUNTERS: all counters at one moment, with what is needed to add up the ledger as of it. ARGV: run
-- -> {1, time, epoch, began, {name, end, b, u, r ...}, {spool, number ...}, {rid, counted ...}, {rid, hold ...}}
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'n', 'run', 'st', 'at')
if marker[2] ~= ARGV[1] or marker[3] ~= 'ready' then return {OTHER_EPOCH, time} end
local prefix = base .. marker[1] .. ':'
local names = redis.call('ZRANGEBYSCORE', prefix .. 'w', '(' .. digits(math.floor(time / 1000)), '+inf', 'WITHSCORES')
local found = {}
for i = 1, #names, 2 do
  local got = redis.call('HMGET', prefix .. names[i], 'b', 'u', 'r')
  found[#found + 1] = names[i]
  found[#found + 1] = names[i + 1]
  found[#found + 1] = got[1] or ''
  found[#found + 1] = got[2] or '0'
  found[#found + 1] = got[3] or '0'
end
return {DONE, time, marker[1], marker[4], found, redis.call('HGETALL', prefix .. 'a'),
        redis.call('HGETALL', prefix .. 't'), redis.call('HGETALL', prefix .. 'r')}
