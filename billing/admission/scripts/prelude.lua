-- Shared by all scripts; joined between their first line and the rest (billing/admission/scripts.py).
--
-- Every script works on the keys of one department, which share the tag of its marker, KEYS[1] = "{d7}:e".
-- The last argument of each is the run id of the server, as the connection found it.
-- It reads and checks all it needs before its first write, so an error in the middle never leaves a half.
-- Amounts are digits that go into HINCRBY as they came; doubles only compare. Times are milliseconds of the store.

local LATE, OTHER_EPOCH, LOST_COUNTER, OTHER_WINDOW, HARD, HELD, RATE, GAP, CHANGED, OTHER_USER = -1, -2, -3, -4, -5, -6, -7, -8, -9, -10
local DONE, NOTHING, KNOWN = 1, 0, 2
local KEPT_S = 8 * 86400
local EXACT = 9007199254740992 -- 2^53: a sum of whole numbers below it is exact
local MOST = 9.2e18            -- and the largest that a counter may come to
local MINUTE_MS = 60000
local DAY_MS = 86400000

local base = string.match(KEYS[1], '^(.*:)')

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function digits(number)
  return string.format('%.0f', number)
end

-- The prefix of the epoch's keys and when it began, or nil when the marker is not of epoch `n` and run `run`.
local function open_epoch(n, run, only_ready)
  local marker = redis.call('HMGET', KEYS[1], 'n', 'run', 'st', 'at')
  if marker[1] ~= n then return nil end
  if marker[2] ~= run then return nil end -- rule: run
  if marker[3] == 'rebuilding' or (only_ready and marker[3] ~= 'ready') then return nil end
  return base .. n .. ':', tonumber(marker[4])
end

local function is_budget(kind)
  return kind == 'M' or kind == 'T' or kind == 'm' or kind == 't'
end

local function of_unit(kind, money, tokens)
  if kind == 'M' or kind == 'm' then return money end
  return tokens
end

-- An amount of a counter as digits; raises an error for what HINCRBY would not take.
local function amount_of(value)
  if not value then return '0' end
  if value ~= '0' and not string.find(value, '^%-?[1-9]%d*$') then error('a counter holds no number') end
  return value
end

local function negated(amount)
  if amount == '0' then return '0' end -- rule: minus-zero
  return '-' .. amount
end

local function check_room(value, more)
  if tonumber(value) + tonumber(more) > MOST then error('a counter would overflow') end
end

local function in_parts(value)
  local text = type(value) == 'number' and digits(value) or value
  local sign = 1
  if string.sub(text, 1, 1) == '-' then sign, text = -1, string.sub(text, 2) end
  local high = tonumber(string.sub(text, 1, -10)) or 0
  return sign * high, sign * tonumber(string.sub(text, -9))
end

-- Whether a + b + c + d > limit, exactly. `limit` is a number below 2^53 or digits.
local function exceeds(limit, a, b, c, d)
  local sum = a + b + c + d
  if type(limit) == 'number' and sum < EXACT / 2 and sum > -EXACT / 2 then return sum > limit end
  local high, low = in_parts(limit)
  high, low = -high, -low
  for _, value in ipairs({a, b, c, d}) do
    local more_high, more_low = in_parts(value)
    high, low = high + more_high, low + more_low
  end
  return high * 1000000000 + low > 0
end

-- A bucket's level in units of 1/60,000 at `time`; a level from the future is as good as none.
local function level_at(key, capacity, time)
  local full = capacity * MINUTE_MS
  local got = redis.call('HMGET', key, 'v', 't')
  if not got[1] or not got[2] then return full end
  local since = time - got[2]
  if since < 0 then return full end
  return math.min(full, got[1] + since * capacity)
end

local function set_level(key, level, time)
  redis.call('HSET', key, 'v', digits(level), 't', digits(time))
  redis.call('PEXPIRE', key, 900000)
end

-- A counter that was begun in this epoch and is gone was lost; one that was not begun had nothing in it when
-- the epoch was made, unless its window was over by then and nobody added it up.
local function is_lost(prefix, name, ends, at)
  return ends * 1000 <= at or redis.call('ZSCORE', prefix .. 'w', name)
end

local function keep(key, ends, time)
  redis.call('PEXPIRE', key, digits(math.max(1, (ends + KEPT_S) * 1000 - time)))
end

local function begin_counter(prefix, name, ends, time)
  redis.call('HSET', prefix .. name, 'b', '0')
  redis.call('ZADD', prefix .. 'w', ends, name)
  keep(prefix .. name, ends, time)
end

-- A hold is "1 admitted money tokens rate step owner\nentries".
local function read_hold(hold)
  local admitted, money, tokens, rate, step, owner, start =
    string.match(hold, '^1 (%d+) (%d+) (%d+) (%d+) (%d+) ([^\n]*)\n()')
  if not start then error('a hold has an unknown form') end
  local entries = cmsgpack.unpack(string.sub(hold, start))
  return {admitted = admitted, money = money, tokens = tokens, rate = rate, step = step, owner = owner,
          entries = entries, packed = string.sub(hold, start)}
end

local function write_hold(prefix, rid, hold)
  redis.call('HSET', prefix .. 'r', rid, '1 ' .. hold.admitted .. ' ' .. hold.money .. ' ' .. hold.tokens .. ' '
    .. hold.rate .. ' ' .. hold.step .. ' ' .. hold.owner .. '\n' .. hold.packed)
end

-- Waiting. A call that a rule refuses for now may stand at that rule with a ticket until there is room:
--   q:<rule>   tickets by virtual finish: who has the least goes first
--   ql:<rule>  the same tickets by the end of their lease (ms): who does not ask again in time has left
--   qv:<rule>  v: the virtual time; f<team>: the last virtual finish given to the team; n<team>: its tickets
--   q          is there while anybody may stand anywhere in the department
-- A ticket is "team weight ask rid". A team's next finish is ask / weight after its last, so teams that always have
-- calls waiting get shares in proportion to their weights, however many calls and replicas each of them has.
-- All of it lapses with the last lease. Doubles do: this decides who comes first, never what fits.
local TICKET_MS = 2000
local MOST_SUMMED = 32

local function double(number)
  return string.format('%.17g', number)
end

-- What a call asks of a rule, as digits.
local function ask_of(kind, limit, money, tokens, rate)
  if is_budget(kind) then return of_unit(kind, money, tokens) end
  return kind == 'K' and digits(math.min(rate, limit)) or '1'
end

local function take_ticket(prefix, name, ticket)
  redis.call('ZREM', prefix .. 'q:' .. name, ticket)
  redis.call('ZREM', prefix .. 'ql:' .. name, ticket)
  redis.call('HINCRBY', prefix .. 'qv:' .. name, 'n' .. string.match(ticket, '^%d+'), -1)
end

-- The turn of a ticket that is given up goes to those of its team that come later.
local function give_up(prefix, name, ticket)
  if not redis.call('ZSCORE', prefix .. 'q:' .. name, ticket) then return end
  take_ticket(prefix, name, ticket)
  local team, weight, ask = string.match(ticket, '^(%d+) (%d+) (%d+) ')
  redis.call('HINCRBYFLOAT', prefix .. 'qv:' .. name, 'f' .. team, double(-ask / weight)) -- rule: turn-given-up
end
