#!lua flags=allow-oom
-- EXTEND: reserve more for a call that is held, if every hard budget still pays it. Sent again, it does nothing.
-- ARGV: rid, not_after, step, money and tokens held now, money and tokens more, money and tokens held then,
--       epoch, run
-- -> {1, time}, {2, time} when this step was taken before, {0, time} without a hold,
--    {-9, time, step, money, tokens} when the hold is not what the caller believes: what it is,
--    {-1 | -2, time}, {-3, time, counter}, {-5 | -6, time, counter, b, u, r, wait}
-- A refusal names the counter, not its place: rules that count nothing may have come since the hold was made.
local rid, step, money, tokens = ARGV[1], ARGV[3], ARGV[6], ARGV[7]
local time = now_ms()
if time > tonumber(ARGV[2]) then return {LATE, time} end -- rule: late
local prefix, at = open_epoch(ARGV[10], ARGV[11], true)
if not prefix then return {OTHER_EPOCH, time} end
local held = redis.call('HGET', prefix .. 'r', rid)
if not held then return {NOTHING, time} end
local hold = read_hold(held)
if hold.step == step and hold.money == ARGV[8] and hold.tokens == ARGV[9] then return {KNOWN, time} end
if hold.money ~= ARGV[4] or hold.tokens ~= ARGV[5] then
  return {CHANGED, time, hold.step, hold.money, hold.tokens}
end

local entries = hold.entries
local refusal
for i = 1, #entries, 4 do
  local kind, name, limit = entries[i], entries[i + 1], entries[i + 2]
  if is_budget(kind) then
    local got = redis.call('HMGET', prefix .. name, 'b', 'u', 'r')
    -- Of a window that was over when the epoch was made nobody knows what was used.
    if not got[1] and entries[i + 3] * 1000 > at then return {LOST_COUNTER, time, name} end -- rule: lost-extend
    local counted, used, reserved = amount_of(got[1]), amount_of(got[2]), amount_of(got[3])
    local ask = of_unit(kind, money, tokens)
    check_room(reserved, ask)
    if kind == 'M' or kind == 'T' then
      -- What this call holds already is not going to end before it does: it counts as used.
      local own = of_unit(kind, hold.money, hold.tokens)
      if exceeds(limit, counted, used, own, ask) then
        refusal = {HARD, time, name, counted, used, reserved, math.max(0, entries[i + 3] * 1000 - time)}
      elseif not refusal and exceeds(limit, counted, used, reserved, ask) then
        refusal = {HELD, time, name, counted, used, reserved, 0}
      end
    end
  end
end
if refusal then return refusal end

for i = 1, #entries, 4 do
  if is_budget(entries[i]) then
    redis.call('HINCRBY', prefix .. entries[i + 1], 'r', of_unit(entries[i], money, tokens))
  end
end
hold.step, hold.money, hold.tokens = step, ARGV[8], ARGV[9]
write_hold(prefix, rid, hold)
return {DONE, time}
