#!lua
-- EXTEND: reserve more for a call that is held, if every hard budget still pays it.
-- ARGV: rid, not_after, step, money and tokens held now, money and tokens more, money and tokens held then,
--       epoch, run
-- -> {1, time}, {2, time} when this step was taken before, {0, time} without a hold,
--    {-9, time} when the hold is not what the caller believes, {-1 | -2, time}, {-5 | -6, time, index, b, u, r, wait}
local rid, step, money, tokens = ARGV[1], ARGV[3], ARGV[6], ARGV[7]
local time = now_ms()
if time > tonumber(ARGV[2]) then return {LATE, time} end -- rule: late
local prefix = open_epoch(ARGV[10], ARGV[11], true)
if not prefix then return {OTHER_EPOCH, time} end
local held = redis.call('HGET', prefix .. 'r', rid)
if not held then return {NOTHING, time} end
local hold = read_hold(held)
if hold.step == step and hold.money == ARGV[8] and hold.tokens == ARGV[9] then return {KNOWN, time} end
if hold.money ~= ARGV[4] or hold.tokens ~= ARGV[5] then return {CHANGED, time} end

local entries = hold.entries
local refusal
for i = 1, #entries, 4 do
  local kind, name, limit = entries[i], entries[i + 1], entries[i + 2]
  if is_budget(kind) then
    local got = redis.call('HMGET', prefix .. name, 'b', 'u', 'r')
    local counted, used, reserved = amount_of(got[1]), amount_of(got[2]), amount_of(got[3])
    local ask = of_unit(kind, money, tokens)
    check_room(reserved, ask)
    if kind == 'M' or kind == 'T' then
      -- What this call holds already is not going to end before it does: it counts as used.
      local own = of_unit(kind, hold.money, hold.tokens)
      if exceeds(limit, counted, used, own, ask) then
        refusal = {HARD, time, (i - 1) / 4, counted, used, reserved, math.max(0, entries[i + 3] * 1000 - time)}
      elseif not refusal and exceeds(limit, counted, used, reserved, ask) then
        refusal = {HELD, time, (i - 1) / 4, counted, used, reserved, 0}
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
