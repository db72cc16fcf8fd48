#!lua flags=allow-oom
-- BEGIN: the first step of a rebuild. From here on nothing is admitted or booked until READY.
-- ARGV: epoch, nonce, run -> {1, time} or {-2, time} when a later epoch is there
local time = now_ms()
local former = redis.call('HGET', KEYS[1], 'n')
if former and tonumber(former) >= tonumber(ARGV[1]) then return {OTHER_EPOCH, time} end
if former then
  for _, name in ipairs({'r', 't', 'a', 'ack', 'w'}) do
    redis.call('PEXPIRE', base .. former .. ':' .. name, 86400000)
  end
end
redis.call('HSET', KEYS[1], 'n', ARGV[1], 'run', ARGV[3], 'st', 'rebuilding', 'at', digits(time), 'nonce', ARGV[2])
return {DONE, time}
