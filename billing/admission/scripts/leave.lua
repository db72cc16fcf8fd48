#!lua flags=allow-oom
-- LEAVE: a call that waited does not wait any more. Sent again, or for one that does not stand, it does nothing.
-- ARGV: rid, team, weight, money, tokens, rate tokens, entries, epoch, run -> {1, time} or {-2, time}
local time = now_ms()
local prefix = open_epoch(ARGV[8], ARGV[9], false)
if not prefix then return {OTHER_EPOCH, time} end
local entries = cmsgpack.unpack(ARGV[7])
for i = 1, #entries, 4 do
  local ask = ask_of(entries[i], entries[i + 2], ARGV[4], ARGV[5], tonumber(ARGV[6]))
  give_up(prefix, entries[i + 1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ask .. ' ' .. ARGV[1])
end
return {DONE, time}
