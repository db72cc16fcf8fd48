#!lua
-- ADMIT: check every rule of one call, then take from all of them; a refusal takes nothing.
-- Nobody overtakes those who wait at a rule (see the prelude): what they ask counts as taken for who comes after them.
-- ARGV: rid, not_after, money, tokens, rate tokens, start and end of the windows (s), owner, entries,
--       team, its weight, how many of it may wait at one rule (0: this call does not wait),
--       "most key user" where the end user is to have counters of their own, else empty; epoch, run
-- -> {1 or 2, time, requests: index, left, reset, tokens: index, left, reset, money: index, left, token budget: index, left}
--    {-1 | -2 | -4 | -10, time}, {-3, time, index}, {-5 | -6 | -7, time, index, used, reserved, wait, place in the queue or 0}
local rid, not_after, money, tokens, rate = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local time = now_ms()
if time > not_after then return {LATE, time} end -- rule: late
local team, weight, most_waiting = ARGV[10], ARGV[11], tonumber(ARGV[12])
local prefix, at = open_epoch(ARGV[14], ARGV[15], true)
if not prefix then return {OTHER_EPOCH, time} end
if redis.call('HEXISTS', prefix .. 'r', rid) == 1 then return {KNOWN, time} end
if time < ARGV[6] * 1000 or time >= ARGV[7] * 1000 then return {OTHER_WINDOW, time} end -- rule: window

-- The end users of a key that have counters of their own today; callers make their names up.
local users, newcomer
if ARGV[13] ~= '' then
  local most, key, user = string.match(ARGV[13], '^(%d+) (%S+) (%S+)$')
  users = prefix .. 'u:' .. key .. ':' .. math.floor(time / DAY_MS)
  if redis.call('SISMEMBER', users, user) == 0 then
    if redis.call('SCARD', users) >= tonumber(most) then return {OTHER_USER, time} end -- rule: most-users
    newcomer = user
  end
end

local entries = cmsgpack.unpack(ARGV[9])
local fresh, levels = {}, {}
local worst, refusal = 0, nil
local requests, token_rate, budget, token_budget = {-1, 0, 0}, {-1, 0, 0}, {-1, 0}, {-1, 0}
local anybody_waits = redis.call('EXISTS', prefix .. 'q') == 1
local places, refused = {}, {} -- by index

local function sum_of_asks(key, count)
  if count > MOST_SUMMED then return math.huge end
  local sum = 0
  if count == 0 then return sum end
  for _, ticket in ipairs(redis.call('ZRANGE', key, 0, count - 1)) do
    sum = sum + string.match(ticket, '^%d+ %d+ (%d+) ')
  end
  return sum
end

-- Where this call stands at a rule, or would stand.
local function find_place(kind, name, ask)
  local key, ticket = prefix .. 'q:' .. name, team .. ' ' .. weight .. ' ' .. ask .. ' ' .. rid
  for _, lapsed in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'ql:' .. name, '-inf', digits(time))) do
    give_up(prefix, name, lapsed) -- rule: ticket-lease
  end
  local rank = redis.call('ZRANK', key, ticket)
  local place = {name = name, ticket = ticket, stands = rank, waiting = redis.call('ZCARD', key)}
  if rank then
    place.before, place.finish = rank, tonumber(redis.call('ZSCORE', key, ticket))
  else
    local got = redis.call('HMGET', prefix .. 'qv:' .. name, 'v', 'f' .. team, 'n' .. team)
    place.finish = math.max(got[1] or 0, got[2] or 0) + ask / weight
    place.before = redis.call('ZCOUNT', key, '-inf', double(place.finish))
    place.is_full = tonumber(got[3] or 0) >= most_waiting -- rule: queue-bound
  end
  place.asked_before = (kind == 'R' or kind == 'C') and place.before or sum_of_asks(key, place.before)
  return place
end

-- What those who stand before this call at a rule ask for.
local function asked_before(index, kind, name, ask)
  local asked = 0
  if anybody_waits and redis.call('EXISTS', prefix .. 'q:' .. name) == 1 then
    places[index] = find_place(kind, name, ask)
    asked = places[index].asked_before -- rule: no-overtaking
  end
  return asked
end

local function refuse(code, index, used, reserved, wait)
  refused[index] = true
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
    local before = asked_before(index, kind, name, ask)
    if exceeds(limit, counted, used, ask, 0) then
      refuse(HARD, index, {counted, used}, reserved, ends * 1000 - time)
    elseif exceeds(limit, counted, used, reserved, ask)
      or (before > 0 and before + ask > limit - counted - used - reserved) then
      refuse(HELD, index, {counted, used}, reserved, 0)
    end
    tightest(kind == 'M' and budget or token_budget, index, limit - counted - used - reserved - ask)
  end
  return true
end

local function check_rate(index, kind, name, limit)
  local level = level_at(prefix .. name, limit, time)
  local ask = tonumber(ask_of(kind, limit, money, tokens, rate))
  local before = asked_before(index, kind, name, digits(ask))
  local left = level - ask * MINUTE_MS
  levels[index] = left
  if left < 0 or (before > 0 and left < before * MINUTE_MS) then
    if before == math.huge then before = places[index].before * ask end
    local wait = math.max(1, math.ceil((before * MINUTE_MS - left) / limit))
    refuse(RATE, index, {'0', digits(limit - math.floor(level / MINUTE_MS))}, '0', wait)
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
    if running + asked_before(index, kind, name, '1') >= limit then refuse(RATE, index, {'0', digits(running)}, '0', 1000) end
  else
    check_rate(index, kind, name, limit)
  end
end

-- A ticket at each rule that refuses, and none at the others: what they have left is for those who can use it.
local function stand(place)
  local name, lease = place.name, digits(time + TICKET_MS)
  if not place.stands then
    redis.call('ZADD', prefix .. 'q:' .. name, double(place.finish), place.ticket)
    redis.call('HSET', prefix .. 'qv:' .. name, 'f' .. team, double(place.finish))
    redis.call('HINCRBY', prefix .. 'qv:' .. name, 'n' .. team, 1)
  end
  redis.call('ZADD', prefix .. 'ql:' .. name, lease, place.ticket)
  for _, key in ipairs({'q:', 'ql:', 'qv:'}) do redis.call('PEXPIRE', prefix .. key .. name, TICKET_MS) end
end

local function line_up()
  local may_wait = most_waiting > 0 and worst ~= HARD
  for index in pairs(refused) do
    local i = index * 4 + 1
    places[index] = places[index]
      or find_place(entries[i], entries[i + 1], ask_of(entries[i], entries[i + 2], money, tokens, rate))
    if places[index].is_full then may_wait = false end
  end
  for index, place in pairs(places) do
    if may_wait and refused[index] then
      stand(place)
    elseif place.stands then
      give_up(prefix, place.name, place.ticket) -- rule: stands-where-refused
    end
  end
  if not may_wait then return 0 end
  redis.call('SET', prefix .. 'q', 1, 'PX', TICKET_MS)
  return places[refusal[3]].before + 1
end

if refusal then
  local place = (most_waiting > 0 or anybody_waits) and line_up() or 0
  return {refusal[1], time, refusal[3], refusal[4][1], refusal[4][2], refusal[5], refusal[6], place}
end

for _, place in pairs(places) do
  if place.waiting > 0 then -- its turn has come: the virtual time goes on to it
    local values = prefix .. 'qv:' .. place.name
    if place.stands then
      take_ticket(prefix, place.name, place.ticket)
    else
      redis.call('HSET', values, 'f' .. team, double(place.finish))
    end
    redis.call('HSET', values, 'v', double(math.max(redis.call('HGET', values, 'v') or 0, place.finish)))
  end
end

if newcomer then
  redis.call('SADD', users, newcomer)
  redis.call('PEXPIRE', users, 2 * DAY_MS)
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
