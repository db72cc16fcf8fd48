#!lua flags=allow-oom
-- DECLARE: hold in a new epoch what an open call held in the one before.
-- ARGV: rid, not_after, admitted, money, tokens, rate tokens, step, owner, entries, epoch, run
-- -> {1, time}, {2, time} when it is held already, {0, time} when its record is counted already, {-1 | -2, time}
local rid, money, tokens = ARGV[1], ARGV[4], ARGV[5]
local time = now_ms()
if time > tonumber(ARGV[2]) then return {LATE, time} end -- rule: late
local prefix, at = open_epoch(ARGV[10], ARGV[11], false)
if not prefix then return {OTHER_EPOCH, time} end
if redis.call('HEXISTS', prefix .. 'r', rid) == 1 then return {KNOWN, time} end
if redis.call('HEXISTS', prefix .. 't', rid) == 1 then return {NOTHING, time} end -- rule: declare-skips-counted

local entries = cmsgpack.unpack(ARGV[9])
local fresh = {}
for i = 1, #entries, 4 do
  local kind, name, ends = entries[i], entries[i + 1], entries[i + 3]
  if is_budget(kind) then
    local got = redis.call('HMGET', prefix .. name, 'b', 'r')
    check_room(amount_of(got[2]), of_unit(kind, money, tokens))
    if not got[1] and not is_lost(prefix, name, ends, at) then fresh[#fresh + 1] = i end
  elseif kind == 'C' then
    redis.call('SCARD', prefix .. name)
  end
end
for _, i in ipairs(fresh) do
  begin_counter(prefix, entries[i + 1], entries[i + 3], time)
end
for i = 1, #entries, 4 do
  local kind, key = entries[i], prefix .. entries[i + 1]
  if is_budget(kind) then
    redis.call('HINCRBY', key, 'r', of_unit(kind, money, tokens))
  elseif kind == 'C' then
    redis.call('SADD', key, rid)
  end
end
write_hold(prefix, rid, {admitted = ARGV[3], money = money, tokens = tokens, rate = ARGV[6], step = ARGV[7],
  owner = ARGV[8], packed = ARGV[9]})
return {DONE, time}
