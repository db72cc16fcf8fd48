#!lua flags=allow-oom
-- SETTLE: book what a call truly used, by the number of its frame in its spool. Sent again, it does nothing.
-- ARGV: spool, number of the department's frame before, number, rid, not_before, money, tokens, entries, copy,
--       epoch, run
-- -> {1, time}, {0, time} for a number already booked, {-8, time, last} when a frame is missing before this one,
--    {-1, time} when an older command of unknown fate could still be carried out, {-2, time}
local spool, rid, money, tokens = ARGV[1], ARGV[4], ARGV[6], ARGV[7]
local before, number = tonumber(ARGV[2]), tonumber(ARGV[3])
local time = now_ms()
local prefix, at = open_epoch(ARGV[10], ARGV[11], false)
if not prefix then return {OTHER_EPOCH, time} end
local last = tonumber(redis.call('HGET', prefix .. 'a', spool) or 0)
if number <= last then return {NOTHING, time} end -- rule: watermark
if last < before then return {GAP, time, last} end
if time <= tonumber(ARGV[5]) then return {LATE, time} end -- rule: not-before

local held = redis.call('HGET', prefix .. 'r', rid)
local counted = redis.call('HGET', prefix .. 't', rid)
redis.call('HEXISTS', base .. 's', rid) -- so that a key of a wrong type fails here, before any write
local writes = {}
local function write(...) writes[#writes + 1] = {...} end
local counted_money, counted_tokens = '0', '0'
local hold = held and read_hold(held)
if counted and not hold then counted_money, counted_tokens = string.match(counted, '^(%d+) (%d+)$') end -- rule: counted

local function book_budget(kind, name, ends)
  local key = prefix .. name
  local got = redis.call('HMGET', key, 'b', 'u', 'r')
  local used = of_unit(kind, money, tokens)
  check_room(amount_of(got[2]), used)
  amount_of(got[3])
  local is_fresh = not got[1] and used ~= '0' and not is_lost(prefix, name, ends, at) -- nothing begins no counter
  if is_fresh then write('begin', name, ends) end
  if used ~= '0' then write('HINCRBY', key, 'u', used) end
  if hold then
    write('HINCRBY', key, 'r', negated(of_unit(kind, hold.money, hold.tokens)))
  else
    local gone = of_unit(kind, counted_money, counted_tokens)
    if gone ~= '0' then write('HINCRBY', key, 'u', negated(gone)) end
  end
  if not got[1] and not is_fresh then write('keep', key, ends) end
end

-- What a bucket gave too much comes back, and what it gave too little is owed, as long as the hold is there.
local function book_rate(kind, name, capacity)
  if kind == 'R' then return end
  local key, full = prefix .. name, capacity * MINUTE_MS
  local level = level_at(key, capacity, time) + (math.min(hold.rate, capacity) - tokens) * MINUTE_MS
  write('level', key, math.max(-full, math.min(full, level)))
end

local entries = hold and hold.entries or cmsgpack.unpack(ARGV[8])
for i = 1, #entries, 4 do
  local kind, name, limit = entries[i], entries[i + 1], entries[i + 2]
  if is_budget(kind) then
    book_budget(kind, name, entries[i + 3])
  elseif hold and kind == 'C' then
    redis.call('SISMEMBER', prefix .. name, rid)
    write('SREM', prefix .. name, rid)
  elseif hold then
    book_rate(kind, name, limit)
  end
end

for _, command in ipairs(writes) do
  if command[1] == 'begin' then
    begin_counter(prefix, command[2], command[3], time)
  elseif command[1] == 'keep' then
    keep(command[2], command[3], time)
  elseif command[1] == 'level' then
    set_level(command[2], command[3], time)
  else
    redis.call(unpack(command))
  end
end
if hold then redis.call('HDEL', prefix .. 'r', rid) end
if counted then redis.call('HDEL', prefix .. 't', rid) end
if ARGV[9] ~= '' then redis.call('HSET', base .. 's', rid, ARGV[9]) end
redis.call('HSET', prefix .. 'a', spool, ARGV[3])
return {DONE, time}
