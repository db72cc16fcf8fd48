#!lua flags=no-writes
-- STATUS: the marker, who has acknowledged it, and how far a spool is booked. ARGV: spool, run
-- -> {time, n, 1 if of this run, state, nonce, began, committed, last number, {worker ...}}; n is 0 without a marker
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'n', 'run', 'st', 'nonce', 'at', 'committed')
if not marker[1] then return {time, 0, 0, '', '', 0, 0, 0, {}} end
local prefix = base .. marker[1] .. ':'
local last = redis.call('HGET', prefix .. 'a', ARGV[1]) or 0
return {time, tonumber(marker[1]), marker[2] == ARGV[2] and 1 or 0, marker[3], marker[4], tonumber(marker[5]),
        tonumber(marker[6] or 0), tonumber(last), redis.call('HKEYS', prefix .. 'ack')}
