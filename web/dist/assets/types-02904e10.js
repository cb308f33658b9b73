const e=["scheduled","blocked","pending","running","retrying","completed","dead","cancelled"],n=["high","normal","low"];export{e as j,n as p};
