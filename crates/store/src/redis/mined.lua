local hold = get(ARGV[1])
if hold then
  remove(ARGV[1])
  hold.mined, hold.version = ARGV[2], '-'
  put(ARGV[1], hold, 0)
end
return { 'done', '' }
