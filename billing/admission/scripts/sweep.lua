#!lua flags=allow-oom
-- SWEEP: book the hold of a call whose worker is gone at the amount of its row in the ledger, which is there.
-- ARGV: rid, money, tokens, youngest age of the epoch in ms, epoch, run
-- -> {1, time}, {0, time} when there is no hold, {-1, time} when the epoch is too young, {-2, time}
local rid, money, tokens = ARGV[1], ARGV[2], ARGV[3]
local time = now_ms()
local prefix, at = open_epoch(ARGV[5], ARGV[6], true)
if not prefix then return {OTHER_EPOCH, time} end
if time < at + tonumber(ARGV[4]) then return {LATE, time} end -- rule: sweep-grace
local held = redis.call('HGET', prefix .. 'r', rid)
if not held then return {NOTHING, time} end
local hold = read_hold(held)
redis.call('HEXISTS', prefix .. 't', rid)
for i = 1, #hold.entries, 4 do
  local kind, key = hold.entries[i], prefix .. hold.entries[i + 1]
  if is_budget(kind) then
    local got = redis.call('HMGET', key, 'u', 'r')
    check_room(amount_of(got[1]), of_unit(kind, money, tokens))
    amount_of(got[2])
  elseif kind == 'C' then
    redis.call('SISMEMBER', key, rid)
  end
end
for i = 1, #hold.entries, 4 do
  local kind, key = hold.entries[i], prefix .. hold.entries[i + 1]
  if is_budget(kind) then
    redis.call('HINCRBY', key, 'u', of_unit(kind, money, tokens))
    redis.call('HINCRBY', key, 'r', negated(of_unit(kind, hold.money, hold.tokens)))
  elseif kind == 'C' then
    redis.call('SREM', key, rid)
  end
end
redis.call('HDEL', prefix .. 'r', rid)
redis.call('HSET', prefix .. 't', rid, money .. ' ' .. tokens)
return {DONE, time}
