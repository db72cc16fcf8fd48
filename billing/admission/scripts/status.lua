#!lua
-- STATUS: the marker, who has acknowledged it, and how far a spool is booked. ARGV: spool, run
-- -> {time, n, run, state, nonce, began, last number, {worker ...}}; empty strings without a marker
local time = now_ms()
local marker = redis.call('HMGET', KEYS[1], 'n', 'run', 'st', 'nonce', 'at')
if not marker[1] then return {time, '', '', '', '', '0', '0', {}} end
local prefix = base .. marker[1] .. ':'
local last = redis.call('HGET', prefix .. 'a', ARGV[1]) or '0'
return {time, marker[1], marker[2], marker[3], marker[4], marker[5], last,
        redis.call('HKEYS', prefix .. 'ack')}
