#!lua
-- ADMIT: check every rule of one call, then take from all of them; a refusal takes nothing.
-- ARGV: rid, not_after, money, tokens, rate tokens, start and end of the windows (s), owner, entries, epoch, run
-- -> {1 or 2, time, requests: index, left, reset, tokens: index, left, reset, money: index, left, token budget: index, left}
--    {-1 | -2 | -4, time}, {-3, time, index}, {-5 | -6 | -7, time, index, used, reserved, wait}
local rid, not_after, money, tokens, rate = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local time = now_ms()
if time > not_after then return {LATE, time} end -- rule: late
local prefix, at = open_epoch(ARGV[10], ARGV[11], true)
if not prefix then return {OTHER_EPOCH, time} end
if redis.call('HEXISTS', prefix .. 'r', rid) == 1 then return {KNOWN, time} end
if time < ARGV[6] * 1000 or time >= ARGV[7] * 1000 then return {OTHER_WINDOW, time} end -- rule: window

local entries = cmsgpack.unpack(ARGV[9])
local fresh, levels = {}, {}
local worst, refusal = 0, nil
local requests, token_rate, budget, token_budget = {-1, 0, 0}, {-1, 0, 0}, {-1, 0}, {-1, 0}

local function refuse(code, index, used, reserved, wait)
  -- Of refusals of one kind the longest is told, of two kinds the graver.
  if worst == 0 or code > worst or (code == worst and wait > refusal[6]) then
    worst, refusal = code, {code, time, index, used, reserved, wait}
  end
end

local function tightest(found, index, left, reset)
  if found[1] < 0 or left < found[2] then found[1], found[2], found[3] = index, left, reset end
end

local function check_budget(index, kind, name, limit, ends)
  local got = redis.call('HMGET', prefix .. name, 'b', 'u', 'r')
  if not got[1] then
    if is_lost(prefix, name, ends, at) then return false end -- rule: lost-counter
    fresh[#fresh + 1] = index
  end
  local counted, used, reserved = amount_of(got[1]), amount_of(got[2]), amount_of(got[3])
  local ask = of_unit(kind, money, tokens)
  check_room(reserved, ask)
  if kind == 'M' or kind == 'T' then
    if exceeds(limit, counted, used, ask, 0) then
      refuse(HARD, index, {counted, used}, reserved, ends * 1000 - time)
    elseif exceeds(limit, counted, used, reserved, ask) then
      refuse(HELD, index, {counted, used}, reserved, 0)
    end
    tightest(kind == 'M' and budget or token_budget, index, limit - counted - used - reserved - ask)
  end
  return true
end

local function check_rate(index, kind, name, limit)
  local level = level_at(prefix .. name, limit, time)
  local left = level - math.min(kind == 'R' and 1 or rate, limit) * MINUTE_MS
  levels[index] = left
  if left < 0 then
    refuse(RATE, index, {'0', digits(limit - math.floor(level / MINUTE_MS))}, '0', math.ceil(-left / limit))
  end
  tightest(kind == 'R' and requests or token_rate, index, math.floor(left / MINUTE_MS),
    math.ceil((limit * MINUTE_MS - left) / limit))
end

for i = 1, #entries, 4 do
  local kind, name, limit, index = entries[i], entries[i + 1], entries[i + 2], (i - 1) / 4
  if is_budget(kind) then
    if not check_budget(index, kind, name, limit, entries[i + 3]) then return {LOST_COUNTER, time, index} end
  elseif kind == 'C' then
    local running = redis.call('SCARD', prefix .. name)
    if running >= limit then refuse(RATE, index, {'0', digits(running)}, '0', 1000) end
  else
    check_rate(index, kind, name, limit)
  end
end
if refusal then
  return {refusal[1], time, refusal[3], refusal[4][1], refusal[4][2], refusal[5], refusal[6]}
end

for _, index in ipairs(fresh) do
  begin_counter(prefix, entries[index * 4 + 2], entries[index * 4 + 4], time)
end
for i = 1, #entries, 4 do
  local kind, key = entries[i], prefix .. entries[i + 1]
  if is_budget(kind) then
    redis.call('HINCRBY', key, 'r', of_unit(kind, money, tokens))
  elseif kind == 'C' then
    redis.call('SADD', key, rid)
  else
    set_level(key, levels[(i - 1) / 4], time)
  end
end
redis.call('HSET', prefix .. 'r', rid, '1 ' .. digits(time) .. ' ' .. money .. ' ' .. tokens .. ' ' .. ARGV[5] .. ' 0 '
  .. ARGV[8] .. '\n' .. ARGV[9])
return {DONE, time, requests[1], requests[2], requests[3], token_rate[1], token_rate[2], token_rate[3],
        budget[1], budget[2], token_budget[1], token_budget[2]}
